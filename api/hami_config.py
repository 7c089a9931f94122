"""HAMi's configuration of NVIDIA nodes: the section ``nvidia`` of ``device-config.yaml`` and the
overrides a node in ``config.json``. Pure.

Keys, types and defaults are those of hami-nvidia-node.md 1.2 and 1.3 (HAMi v2.8, with the keys that
later versions added). What upstream crashes without has a default here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.fields import (
    FLAG,
    NAME,
    RESOURCE,
    TEXT,
    Fields,
    Kind,
    UnfitError,
    choice,
    many,
    number,
    pick,
    whole,
)
from deviceplugin.api.problems import Problem, nearest, unknown_keys

__all__ = [
    "NVIDIA",
    "FilterDevices",
    "MigGeometry",
    "MigModels",
    "MigProfile",
    "NodeOverride",
    "NvidiaSection",
    "merge_overrides",
    "mode_warnings",
    "node_override_warnings",
    "nvidia_section_warnings",
    "parse_node_overrides",
    "parse_nvidia_section",
    "section_values",
]

NVIDIA = "nvidia"
"""The key of NVIDIA's section."""

MODES = ("hami-core", "mig", "mps")
MOST_SPLITS = 10_000
"""Above this a node's device list outgrows what kubelet takes in one message."""


@dataclass(frozen=True, slots=True)
class FilterDevices:
    """GPUs to hide completely: by exact uuid or by NVML index."""

    uuid: tuple[str, ...] = ()
    index: tuple[int, ...] = ()

    def hides(self, uuid: str, index: int) -> bool:
        """Whether the GPU is to be hidden."""
        return uuid in self.uuid or index in self.index


@dataclass(frozen=True, slots=True)
class MigProfile:
    """`count` instances of one profile: cores in percent and memory in MiB of each."""

    name: str
    core: int
    memory: int
    count: int


MigGeometry = tuple[MigProfile, ...]
"""One allowed partitioning of a whole GPU, in the order of its flattened list of instances."""


@dataclass(frozen=True, slots=True)
class MigModels:
    """One row of the geometry table; `models` are substrings of the GPU's name, the first row
    with a hit counts (hami-nvidia-node.md 4.1).
    """

    models: tuple[str, ...]
    geometries: tuple[MigGeometry, ...]


@dataclass(frozen=True, slots=True)
class NvidiaSection:
    """The section ``nvidia``; memory in MiB, cores in percent, scalings as factors.

    The last group is ours and unknown to HAMi: an operating mode and a filter for all nodes, and
    `allow_disable_control`, without which ``CUDA_DISABLE_CONTROL`` in a pod takes off no limit, and
    `mps_limits`, without which operating mode ``mps`` is HAMi's, a name for limits by libvgpu.
    """

    resource_count_name: str = "nvidia.com/gpu"
    resource_memory_name: str = "nvidia.com/gpumem"
    resource_memory_percentage_name: str = "nvidia.com/gpumem-percentage"
    resource_core_name: str = "nvidia.com/gpucores"
    resource_priority_name: str = "nvidia.com/priority"
    overwrite_env: bool = False
    default_memory: int = 0
    default_cores: int = 0
    default_gpu_num: int = 1
    memory_factor: int = 1
    device_split_count: int = 10
    device_memory_scaling: float = 1.0
    device_core_scaling: float = 1.0
    gpu_core_policy: str = "default"
    lib_cuda_log_level: str = ""
    runtime_class_name: str = ""
    disable_core_limit: bool = False
    known_mig_geometries: tuple[MigModels, ...] = ()
    pre_configured_device_memory: int = 0
    enable_numa_topology: bool = False
    enable_get_preferred_allocation: bool = False

    operating_mode: str = "hami-core"
    filter_devices: FilterDevices = FilterDevices()
    allow_disable_control: bool = False
    mps_limits: bool = False


@dataclass(frozen=True, slots=True)
class NodeOverride:
    """One entry of ``config.json`` whose name is this node's. None: says nothing about it.

    `mig_strategy` is read and never applied, as upstream (hami-nvidia-node.md 1.3).
    """

    name: str
    operating_mode: str | None = None
    device_memory_scaling: float | None = None
    device_split_count: int | None = None
    device_core_scaling: float | None = None
    lib_cuda_log_level: str | None = None
    mig_strategy: str | None = None
    filter_devices: FilterDevices | None = None
    pre_configured_device_memory: int | None = None
    enable_numa_topology: bool | None = None
    enable_get_preferred_allocation: bool | None = None


# --- kinds -------------------------------------------------------------------------------------


def _digits(value: object) -> object:
    """YAML's unquoted 3 is the text "3"; a truth value is no number."""
    return str(value) if type(value) is int and -9 <= value <= 9 else value


def _filter(value: object) -> FilterDevices:
    if not isinstance(value, Mapping):
        raise UnfitError("not a mapping", "write uuid: [...] and index: [...] below it")
    if strange := [key for key in value if key not in ("uuid", "index")]:
        # A misspelt filter shows devices that somebody wanted hidden, so it is no mere warning.
        raise UnfitError(f"unknown key {strange[0]!r}", nearest(strange[0], ("uuid", "index")))
    return FilterDevices(
        _UUIDS.check(value.get("uuid") or []), _INDEXES.check(value.get("index") or [])
    )


_UUIDS = many(NAME)
_INDEXES = many(whole(0, 1023))
_LOG_LEVEL = pick(choice("", "0", "1", "2", "3", "4"), _digits)
_MODE = choice(*MODES)
_FILTER: Kind[FilterDevices] = Kind("uuid, index", _filter)
_SCALING = number(0.01, 1000)
_SPLITS = whole(1, MOST_SPLITS)
_MEMORY = whole(0, 2**31 - 1)

_SECTION: tuple[tuple[str, str, Kind[Any]], ...] = (
    ("resourceCountName", "resource_count_name", RESOURCE),
    ("resourceMemoryName", "resource_memory_name", RESOURCE),
    ("resourceMemoryPercentageName", "resource_memory_percentage_name", RESOURCE),
    ("resourceCoreName", "resource_core_name", RESOURCE),
    ("resourcePriorityName", "resource_priority_name", RESOURCE),
    ("overwriteEnv", "overwrite_env", FLAG),
    ("defaultMemory", "default_memory", _MEMORY),
    ("defaultCores", "default_cores", whole(0, 100)),
    ("defaultGPUNum", "default_gpu_num", whole(0, 1024)),
    ("memoryFactor", "memory_factor", whole(1, 2**31 - 1)),
    ("deviceSplitCount", "device_split_count", _SPLITS),
    ("deviceMemoryScaling", "device_memory_scaling", _SCALING),
    ("deviceCoreScaling", "device_core_scaling", _SCALING),
    ("gpuCorePolicy", "gpu_core_policy", choice("default", "force", "disable")),
    ("libCudaLogLevel", "lib_cuda_log_level", _LOG_LEVEL),
    ("runtimeClassName", "runtime_class_name", TEXT),
    ("disableCoreLimit", "disable_core_limit", FLAG),
    ("preConfiguredDeviceMemory", "pre_configured_device_memory", _MEMORY),
    ("enableNumaTopology", "enable_numa_topology", FLAG),
    ("enableGetPreferredAllocation", "enable_get_preferred_allocation", FLAG),
    ("operatingMode", "operating_mode", _MODE),
    ("filterDevices", "filter_devices", _FILTER),
    ("allowDisableControl", "allow_disable_control", FLAG),
    ("mpsLimits", "mps_limits", FLAG),
)
SECTION_KEYS = (*(key for key, _, _ in _SECTION), "knownMigGeometries")

_ROW_KEYS = ("models", "allowedGeometries")
_PROFILE_KEYS = ("name", "core", "memory", "count")

# In config.json zero and the empty text mean "not given", so the lower bounds are zero here.
_OVERRIDE: tuple[tuple[str, str, str, Kind[Any]], ...] = (
    ("operatingmode", "operating_mode", "operatingMode", choice("", *MODES)),
    (
        "devicememoryscaling",
        "device_memory_scaling",
        "deviceMemoryScaling",
        number(0, 1000),
    ),
    ("devicesplitcount", "device_split_count", "deviceSplitCount", whole(0, MOST_SPLITS)),
    ("devicecorescaling", "device_core_scaling", "deviceCoreScaling", number(0, 1000)),
    ("libcudaloglevel", "lib_cuda_log_level", "libCudaLogLevel", _LOG_LEVEL),
    (
        "preconfigureddevicememory",
        "pre_configured_device_memory",
        "preConfiguredDeviceMemory",
        _MEMORY,
    ),
    ("enablenumatopology", "enable_numa_topology", "enableNumaTopology", FLAG),
    (
        "enablegetpreferredallocation",
        "enable_get_preferred_allocation",
        "enableGetPreferredAllocation",
        FLAG,
    ),
    ("filterdevices", "filter_devices", "filterDevices", _FILTER),
    ("migstrategy", "mig_strategy", "", choice("", "none", "single", "mixed")),
)
OVERRIDE_KEYS = ("name", *(key for key, _, _, _ in _OVERRIDE))


# --- the section -------------------------------------------------------------------------------


def parse_nvidia_section(
    data: Mapping[str, object], source: str = "configuration", path: str = NVIDIA
) -> tuple[NvidiaSection, tuple[Problem, ...]]:
    """The typed section, and every value that does not fit; such a value has its default.

    Never raises. Unknown keys are none of its business: see `nvidia_section_warnings`.
    """
    problems: list[Problem] = []
    fields = Fields(data, source, path, problems)
    values = fields.values(_SECTION)
    values["known_mig_geometries"] = _mig_table(fields)
    return NvidiaSection(**values), tuple(problems)


def nvidia_section_warnings(
    data: Mapping[str, object], source: str = "configuration", path: str = NVIDIA
) -> tuple[Problem, ...]:
    """The keys of the section that nobody reads."""
    warnings = unknown_keys(data, SECTION_KEYS, source, path)
    for row in Fields(data, source, path, []).mappings("knownMigGeometries"):
        warnings += unknown_keys(row.data, _ROW_KEYS, source, row.path)
    return tuple(warnings)


def section_values(section: NvidiaSection) -> dict[str, object]:
    """The section's values by their keys in the file; the MIG table by its models."""
    values = {key: getattr(section, attribute) for key, attribute, _ in _SECTION}
    hidden = section.filter_devices
    values["filterDevices"] = {"uuid": hidden.uuid, "index": hidden.index}
    values["knownMigGeometries"] = [row.models for row in section.known_mig_geometries]
    return values


def _mig_table(section: Fields) -> tuple[MigModels, ...]:
    rows = []
    for row in section.mappings("knownMigGeometries"):
        models = row.get("models", many(NAME, least=1), ())
        if row.data.get("models") is None:
            row.wrong("models", "missing", "name substrings of the GPU's model")
        rows.append(MigModels(models, _geometries(row)))
    return tuple(rows)


def _geometries(row: Fields) -> tuple[MigGeometry, ...]:
    given = row.data.get("allowedGeometries")
    if not isinstance(given, list | tuple) or not given:
        row.wrong(
            "allowedGeometries",
            "not a list of partitionings",
            "write a list; each member is a list of {name, core, memory, count}",
        )
        return ()
    found = []
    for position, item in enumerate(given):
        key = f"allowedGeometries[{position}]"
        found.append(_geometry(Fields({key: item}, row.source, row.path, row.problems), key))
    return tuple(found)


def _geometry(row: Fields, key: str) -> MigGeometry:
    """One partitioning.

    HAMi's scheduler names an instance by its profile's position for the first pod on a card and
    by its position in the flattened list for later ones. Both name the same instance only while
    all profiles but the last have one instance; any other geometry would be placed by guess
    (hami-nvidia-node.md 4.2).
    """
    before = len(row.problems)
    profiles = []
    for entry in row.mappings(key):
        profiles.append(
            MigProfile(
                name=_required(entry, "name", NAME, ""),
                core=_required(entry, "core", whole(0, 100), 0),
                memory=_required(entry, "memory", whole(1, 2**31 - 1), 1),
                count=_required(entry, "count", whole(1, 64), 1),
            )
        )
        for strange in unknown_keys(entry.data, _PROFILE_KEYS, entry.source, entry.path):
            row.problems.append(strange)
    if len(row.problems) > before:
        return ()
    if not profiles:
        row.wrong(key, "an empty partitioning", "list its profiles, or remove it")
    elif any(profile.count > 1 for profile in profiles[:-1]):
        row.wrong(
            key,
            "profile index and flattened position name different instances",
            "put the profile with more than one instance last, and only one of that sort",
        )
    return tuple(profiles)


def _required(entry: Fields, key: str, kind: Kind[Any], default: Any) -> Any:
    if entry.data.get(key) in (None, ""):
        entry.wrong(key, "missing", f"write a {kind.form}")
    return entry.get(key, kind, default)


# --- overrides a node --------------------------------------------------------------------------


def parse_node_overrides(
    document: Mapping[str, object], node_name: str, source: str
) -> tuple[tuple[NodeOverride, ...], tuple[Problem, ...]]:
    """The entries of ``config.json`` for this node, in order, and what is wrong with them.

    Entries of other nodes are not judged: their mistake is theirs. Never raises.
    """
    problems: list[Problem] = []
    found = []
    for entry in _entries(document, source, problems):
        if entry.data.get("name") != node_name:
            continue
        values = {
            attribute: value
            for attribute, value in entry.values(
                (key, attribute, kind) for key, attribute, _, kind in _OVERRIDE
            ).items()
            if isinstance(value, bool) or value not in (0, "")
        }
        found.append(NodeOverride(name=node_name, **values))
    return tuple(found), tuple(problems)


def node_override_warnings(
    document: Mapping[str, object], node_name: str, source: str
) -> tuple[Problem, ...]:
    """What is odd in ``config.json`` and stops nothing: keys that nobody reads."""
    lower = _lowered(document)
    warnings = unknown_keys(lower, ("nodeconfig",), source, "")
    for entry in _entries(document, source, []):
        if "name" not in entry.data:
            warnings.append(
                Problem(source, entry.path, None, "has no name, ignored", "add the node's name")
            )
        elif entry.data["name"] == node_name:
            warnings += unknown_keys(entry.data, OVERRIDE_KEYS, source, entry.path)
    return tuple(warnings)


def merge_overrides(
    section: Mapping[str, object], overrides: Sequence[NodeOverride]
) -> dict[str, object]:
    """The raw section with what the overrides say differently; later entries win."""
    merged = dict(section)
    for override in overrides:
        for _, attribute, key, _ in _OVERRIDE:
            value = getattr(override, attribute)
            if key and value is not None:
                merged[key] = (
                    {"uuid": value.uuid, "index": value.index}
                    if isinstance(value, FilterDevices)
                    else value
                )
    return merged


def mode_warnings(
    section: Mapping[str, object], source: str, path: str = NVIDIA
) -> tuple[Problem, ...]:
    """What the operating mode of a merged section means, where somebody may take it for another."""
    parsed, _ = parse_nvidia_section(section)
    if parsed.operating_mode != "mps" or parsed.mps_limits:
        return ()
    return (
        Problem(
            source,
            f"{path}.operatingMode",
            parsed.operating_mode,
            "limits are kept by libvgpu, which is what HAMi 2.8 means by it",
            f"write hami-core for that, or set {path}.mpsLimits: true for limits by NVIDIA's MPS",
        ),
    )


def _lowered(data: Mapping[str, object]) -> dict[str, object]:
    """Keys in lower case: upstream's JSON reader does not tell the cases apart."""
    return {key.lower(): value for key, value in data.items()}


def _entries(document: Mapping[str, object], source: str, problems: list[Problem]) -> list[Fields]:
    entries = Fields(_lowered(document), source, "", problems).mappings("nodeconfig")
    return [Fields(_lowered(entry.data), source, entry.path, problems) for entry in entries]
