"""What NVML says of this node, as a snapshot.

Every call concerns one card; when it fails, that card is unhealthy for this reason and the others
go on. A card that cannot even say its uuid is reported as it was last known, else left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from deviceplugin.vendor import PhysicalDevice, Snapshot, with_health
from deviceplugin.vendors.nvidia import facts, geometry, hami_core, links, mig
from deviceplugin.vendors.nvidia.host import CAPABILITY, DXG, Host
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

MIB = 1024 * 1024
TEGRA_UUID = "tegra"
_RESET = "reset the GPU or reboot the node if this stays"


class Reader:
    """NVML's answers about one handle. A failing call is kept in `failures` and gives a default;
    what the card merely does not support is no failure.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self.handle = handle
        self.failures: list[str] = []

    def ask(self, call: str, default: Any, *arguments: Any) -> Any:
        """The answer of NVML's function `call`, or the default."""
        try:
            return getattr(self._nvml, call)(self.handle, *arguments)
        except self._nvml.NVMLError as error:
            unsupported = (
                self._nvml.NVML_ERROR_NOT_SUPPORTED,
                self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            )
            if error.value not in unsupported:
                self.failures.append(f"{call}: {error}")
        except UnicodeDecodeError:
            self.failures.append(f"{call}: the answer is not text")
        return default


@dataclass(frozen=True, slots=True)
class _Site:
    """What all cards of one discovery have in common."""

    settings: NvidiaSettings
    host: Host
    last: Snapshot
    platform: str
    control_nodes: tuple[str, ...]
    mig_minors: Mapping[str, int]
    library: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Card:
    """A GPU with its instances, and what has to be told about them; `endpoint` while it works."""

    gpu: PhysicalDevice
    instances: tuple[PhysicalDevice, ...] = ()
    problems: tuple[str, ...] = ()
    endpoint: links.Endpoint | None = None


def discover(nvml: Any, settings: NvidiaSettings, host: Host, last: Snapshot) -> Snapshot:
    """The GPUs and MIG instances of an initialised NVML, without those the operator hides.

    `last` is the former snapshot of this process, from which a card that no longer answers is
    remembered. Raises NVML's error when it cannot even count.
    """
    site = _site(settings, host, last)
    cards: list[_Card] = []
    problems: list[str] = []
    hidden = settings.section.filter_devices
    for index in range(nvml.nvmlDeviceGetCount()):
        if index in hidden.index:
            continue
        try:
            reader = Reader(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            uuid = nvml.nvmlDeviceGetUUID(reader.handle)
        except (nvml.NVMLError, UnicodeDecodeError) as error:
            remembered = _remembered(index, str(error), last)
            cards += remembered
            if not remembered:
                problems.append(f"GPU {index} is left out: {error}; {_RESET}")
            continue
        if uuid not in hidden.uuid:
            cards.append(_card(nvml, reader, index, uuid, site))
    # A remembered card that answers at another index now counts as what it says now.
    cards.sort(key=lambda card: card.endpoint is not None)
    cards = _linked(nvml, list({card.gpu.uuid: card for card in cards}.values()))
    cards.sort(key=lambda card: int(card.gpu.index))
    devices = tuple(device for card in cards for device in (card.gpu, *card.instances))
    return Snapshot(
        devices=devices,
        attributes=MappingProxyType(_driver(nvml)),
        problems=(
            *problems,
            *(problem for card in cards for problem in card.problems),
            *_advice(devices, settings),
            *mig.advice(devices, settings),
        ),
    )


def mig_devices(
    nvml: Any, uuid: str, settings: NvidiaSettings, host: Host
) -> tuple[PhysicalDevice, ...]:
    """The MIG instances of one GPU, as discovery finds them. Raises NVML's error when the GPU does
    not answer.
    """
    reader = Reader(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    index = int(nvml.nvmlDeviceGetIndex(reader.handle))
    return _card(nvml, reader, index, uuid, _site(settings, host, Snapshot())).instances


def _site(settings: NvidiaSettings, host: Host, last: Snapshot) -> _Site:
    return _Site(
        settings=settings,
        host=host,
        last=last,
        platform=facts.WSL if host.wsl else facts.NVML,
        control_nodes=() if host.wsl else host.control_nodes(),
        mig_minors=host.mig_minors(),
        library=hami_core.files(settings) if settings.limited else {},
    )


def tegra(host: Host) -> Snapshot:
    """The one device of a Tegra, which has no NVML and is always healthy."""
    model = host.read("proc/device-tree/model").strip("\0\n ") or "NVIDIA Tegra"
    attributes = MappingProxyType({facts.PLATFORM: facts.TEGRA})
    return Snapshot((PhysicalDevice(TEGRA_UUID, "0", model, attributes=attributes),))


# --- one card ----------------------------------------------------------------------------------


def _card(nvml: Any, reader: Reader, index: int, uuid: str, site: _Site) -> _Card:
    pci = reader.ask("nvmlDeviceGetPciInfo", None)
    bus_id = _bus_id(reader, pci)
    wsl = site.platform == facts.WSL
    minor = None if wsl else reader.ask("nvmlDeviceGetMinorNumber", None)
    mode = reader.ask("nvmlDeviceGetMigMode", None)
    enabled = bool(mode) and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE
    capability = reader.ask("nvmlDeviceGetCudaComputeCapability", None)
    configured = site.settings.section.pre_configured_device_memory
    model = reader.ask("nvmlDeviceGetName", "")
    table = geometry.match(model, site.settings.geometries)
    gpu = PhysicalDevice(
        uuid=uuid,
        index=str(index),
        model=model,
        memory_mib=_memory_mib(reader) or configured or None,
        numa_node=site.host.numa_node(bus_id) if bus_id else None,
        device_nodes=_gpu_nodes(minor, site),
        attributes=_attributes(
            {
                facts.PLATFORM: site.platform,
                facts.BUS_ID: bus_id,
                facts.COMPUTE_CAPABILITY: "{}.{}".format(*capability) if capability else "",
                facts.MIG_MODE: (facts.ENABLED if enabled else facts.DISABLED) if mode else "",
                facts.MIG_TABLE: table.by if table else "",
                **site.library,
            }
        ),
    )
    problems: list[str] = []
    instances: tuple[PhysicalDevice, ...] = ()
    if enabled:
        instances = tuple(_instances(nvml, reader, gpu, minor, site, problems))
    if reader.failures:
        card = _failing(gpu, instances, "; ".join(reader.failures), site.last)
        return replace(card, problems=(*card.problems, *problems))
    if enabled and not instances and site.settings.offers_instances:
        problems.append(f"GPU {index} ({uuid}) is in MIG mode and has no instance to offer")
    return _Card(gpu, instances, tuple(problems), links.Endpoint(reader.handle, uuid, bus_id))


def _bus_id(reader: Reader, pci: Any) -> str:
    """The bus id as the kernel writes it; the binding decodes it only when it is read."""
    try:
        return links.normal_bus_id(pci.busId) if pci else ""
    except UnicodeDecodeError:
        reader.failures.append("nvmlDeviceGetPciInfo: the answer is not text")
        return ""


def _memory_mib(reader: Reader) -> int:
    """Total memory; 0 for a card that shares the host's memory and so has no figure."""
    memory = reader.ask("nvmlDeviceGetMemoryInfo", None)
    return int(memory.total) // MIB if memory else 0


def _gpu_nodes(minor: int | None, site: _Site) -> tuple[str, ...]:
    own = DXG if site.platform == facts.WSL else "" if minor is None else f"/dev/nvidia{minor}"
    nodes = (*site.control_nodes, *([own] if own else []))
    return tuple(site.host.node(node) for node in nodes)


def _attributes(values: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({key: value for key, value in values.items() if value})


def _failing(
    gpu: PhysicalDevice, instances: Sequence[PhysicalDevice], reason: str, last: Snapshot
) -> _Card:
    """A card with a failing call: the facts of better days, where there were any."""
    text = f"{reason}; {_RESET}"
    members = {instance.uuid: instance for instance in instances}
    for device in last.devices:
        if device.uuid == gpu.uuid:
            gpu = replace(device, index=gpu.index)
        elif device.parent_uuid == gpu.uuid:
            members.setdefault(device.uuid, device)
    return _Card(
        with_health(gpu, False, text),
        tuple(with_health(instance, False, f"its GPU: {text}") for instance in members.values()),
        (f"GPU {gpu.index} ({gpu.uuid}) is unhealthy: {text}",),
    )


def _remembered(index: int, reason: str, last: Snapshot) -> list[_Card]:
    """The card that was last seen at the index of one that no longer says who it is."""
    known = [gpu for gpu in last.devices if gpu.index == str(index)]
    return [_failing(gpu, (), reason, last) for gpu in known]


# --- its MIG instances -------------------------------------------------------------------------


def _instances(
    nvml: Any,
    parent: Reader,
    gpu: PhysicalDevice,
    minor: int | None,
    site: _Site,
    problems: list[str],
) -> Iterator[PhysicalDevice]:
    for position in range(parent.ask("nvmlDeviceGetMaxMigDeviceCount", 0)):
        index = f"{gpu.index}:{position}"
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent.handle, position)
        except nvml.NVMLError as error:
            if error.value not in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT):
                problems.append(f"MIG instance {index} is left out: {error}; {_RESET}")
            continue
        reader = Reader(nvml, handle)
        if uuid := reader.ask("nvmlDeviceGetUUID", ""):
            instance = _instance(reader, uuid, index, gpu, minor, site)
            if not instance.healthy:
                problems.append(f"MIG instance {index} ({uuid}) is unhealthy: {instance.reason}")
            elif not instance.profile:
                problems.append(f"MIG instance {index} ({uuid}) does not tell its profile")
            yield instance
        else:
            reason = "; ".join(reader.failures)
            problems.append(f"MIG instance {index} is left out: {reason}; {_RESET}")


def _instance(
    reader: Reader, uuid: str, index: str, gpu: PhysicalDevice, minor: int | None, site: _Site
) -> PhysicalDevice:
    _, old_gi, old_ci = mig.parsed_uuid(uuid) or ("", None, None)
    gi = reader.ask("nvmlDeviceGetGpuInstanceId", old_gi)
    ci = reader.ask("nvmlDeviceGetComputeInstanceId", old_ci)
    slices = reader.ask("nvmlDeviceGetAttributes", None)
    memory = _memory_mib(reader) or (int(slices.memorySizeMB) if slices else 0)
    profile = mig.profile_in(reader.ask("nvmlDeviceGetName", ""))
    compute, whole = (
        (slices.computeInstanceSliceCount, slices.gpuInstanceSliceCount) if slices else (0, 0)
    )
    nodes, lacking = _capability_nodes(minor, gi, ci, site)
    device = PhysicalDevice(
        uuid=uuid,
        index=index,
        model=gpu.model,
        memory_mib=memory or None,
        numa_node=gpu.numa_node,
        device_nodes=(*gpu.device_nodes, *nodes),
        parent_uuid=gpu.uuid,
        profile=profile or mig.profile_of_slices(compute, whole, memory, gpu.memory_mib or 0),
        attributes=_attributes(
            {
                facts.PLATFORM: site.platform,
                facts.COMPUTE_CAPABILITY: gpu.attributes.get(facts.COMPUTE_CAPABILITY, ""),
                facts.GPU_INSTANCE: "" if gi is None else str(gi),
                facts.COMPUTE_INSTANCE: "" if ci is None else str(ci),
                facts.GPU_SLICES: str(whole or ""),
                facts.COMPUTE_SLICES: str(compute or ""),
            }
        ),
    )
    reasons = (*reader.failures, *lacking)
    return with_health(device, False, "; ".join(reasons)) if reasons else device


def _capability_nodes(
    minor: int | None, gi: int | None, ci: int | None, site: _Site
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The nodes that let a container use an instance, and what the kernel lacks of them."""
    keys = (f"gpu{minor}/gi{gi}/access", f"gpu{minor}/gi{gi}/ci{ci}/access")
    table = site.mig_minors
    nodes = [f"{CAPABILITY}{table[key]}" for key in keys if key in table]
    lacking = [
        f"{key} is not in /proc/driver/nvidia-caps/mig-minors" for key in keys if key not in table
    ]
    return tuple(site.host.node(node) for node in nodes), tuple(lacking)


# --- all cards ---------------------------------------------------------------------------------


def _linked(nvml: Any, cards: Sequence[_Card]) -> list[_Card]:
    """The cards with the scores of their connections; a card that fails keeps those it had."""
    table = links.scores(nvml, [card.endpoint for card in cards if card.endpoint])
    return [
        replace(card, gpu=replace(card.gpu, links=MappingProxyType(dict(table[card.gpu.uuid]))))
        if card.endpoint
        else card
        for card in cards
    ]


def _driver(nvml: Any) -> dict[str, str]:
    """Versions of driver and CUDA. A driver that does not tell them still serves its cards."""
    attributes = {}
    try:
        attributes[facts.DRIVER_VERSION] = nvml.nvmlSystemGetDriverVersion()
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        attributes[facts.CUDA_VERSION] = f"{cuda // 1000}.{cuda % 1000 // 10}"
    except (nvml.NVMLError, UnicodeDecodeError):
        return attributes
    return attributes


def _advice(devices: Sequence[PhysicalDevice], settings: NvidiaSettings) -> Iterator[str]:
    """Cards whose shares cannot be limited, because nobody knows what they are shares of."""
    for device in devices:
        unknown = device.memory_mib is None and device.healthy and not device.parent_uuid
        if unknown and (settings.limited or settings.mps):
            yield (
                f"GPU {device.index} ({device.uuid}) has no memory figure, so its shares cannot be "
                "limited; set nvidia.preConfiguredDeviceMemory (MiB), or isolation: none"
            )
