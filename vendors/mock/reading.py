"""YAML text becomes a `Profile`, or a `ProfileError`; nothing in between.

The schema is described for people in ``docs/vendors/mock.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from deviceplugin.api.problems import nearest
from deviceplugin.vendor import Mount, PhysicalDevice, Sharing, Snapshot, Split, Usage
from deviceplugin.vendors.mock.fields import MOST, Fields, made_uuid, shown
from deviceplugin.vendors.mock.profile import (
    DEVICE_FAULTS,
    ENDINGS,
    Busy,
    Change,
    Fault,
    FaultKind,
    Origin,
    PartitionSize,
    Profile,
    ProfileError,
    ProfileMount,
)

KIND, VERSION = "MockNode", "v1"

MOST_DEVICES = 256
"""In one counted template: every device has a link to every other."""

MOST_DEPTH = 32
"""Of a document; no profile nests deeper than eight, a summary of settings may."""

MOST_SHARES = 1024
"""Of one device."""

SEPARATORS = {
    Sharing.EXCLUSIVE: "",
    Sharing.LIMITED: "-",
    Sharing.TIME_SLICING: "::",
    Sharing.MPS: "::",
}
"""Between uuid and number of a virtual device (kubelet-deviceplugin.md 4.5)."""

_PROFILE_KEYS = (
    "kind",
    "version",
    "origin",
    "recorded",
    "resource",
    "devices",
    "attributes",
    "problems",
    "changes",
    "split",
    "exposure",
    "mounts",
    "partitions",
    "faults",
    "usage",
)
_USAGE_KEYS = ("at", "device", "usedMiB", "utilisationPercent", "memoryControllerPercent")
_DEVICE_KEYS = (
    "uuid",
    "index",
    "model",
    "memoryMiB",
    "coresPercent",
    "numaNode",
    "links",
    "deviceNodes",
    "healthy",
    "reason",
    "parent",
    "profile",
    "attributes",
)
_RESOURCE = re.compile(
    r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


def parse(text: str, source: str) -> object:
    """The plain data of a YAML document; a key that stands twice is an error.

    Raises `ProfileError`.
    """
    import yaml  # only a node that reads a file pays for it

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, valid-type]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> object:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1:
                    where = f"line {node.start_mark.line + 1}"
                    raise ProfileError(source, key, f"stands twice ({where})", "remove one")
            return super().construct_mapping(node, deep)

    try:
        # First without recursion: deep nesting overflows the stack of the C constructor.
        depth = 0
        for event in yaml.parse(text, base):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ProfileError(source, "", "is nested too deeply", "correct its indentation")
        return yaml.load(text, Loader)  # noqa: S506  a subclass of the safe loader
    except ProfileError:
        raise
    except Exception as error:  # a wrong number or date raises whatever its constructor trips on
        reason = " ".join(f"{error}".split())
        raise ProfileError(source, "", f"no YAML: {reason:.300}", "correct it") from None


def read(
    data: object, source: str, default_resource: str, *, seed: str = "", inline: bool = False
) -> Profile:
    """The profile of plain data.

    `default_resource` is taken where the profile names none, `seed` makes the uuids that it does
    not give. An `inline` profile needs no ``kind`` and ``version``. Raises `ProfileError`.
    """
    fields = Fields(data, source, "", _PROFILE_KEYS)
    for key, wanted in (("kind", KIND), ("version", VERSION)):
        if (found := fields.text(key, wanted if inline else None)) != wanted:
            raise fields.wrong(key, f"{shown(found)} is unknown", f"write {wanted}")
    origin = fields.choice("origin", Origin, Origin.COMPOSED)
    fields.sub("recorded", ("vendor", "settings", "masked"))
    snapshot = _snapshot(fields, origin, seed)
    changes = _changes(fields, origin, seed)
    listed = [
        device for moment in (snapshot, *(c.snapshot for c in changes)) for device in moment.devices
    ]
    return Profile(
        origin=origin,
        resource=resource(fields, default_resource),
        snapshot=snapshot,
        changes=changes,
        split=_split(fields),
        exposure=fields.flag("exposure", False),
        mounts=tuple(_mount(item, source, place) for place, item in fields.items("mounts")),
        partitions=MappingProxyType(
            {
                size: _partition(item, source, place)
                for size, place, item in fields.members("partitions")
            }
        ),
        faults=faults(fields, listed),
        usage=_usage(fields, listed),
    )


def resource(fields: Fields, default: str) -> str:
    """The key ``resource`` of a profile or a section. Raises `ProfileError`."""
    name = fields.text("resource", default)
    if not _RESOURCE.fullmatch(name):
        raise fields.wrong("resource", f"{shown(name)} is no resource", "write domain/name")
    return name


def faults(fields: Fields, devices: Sequence[PhysicalDevice]) -> tuple[Fault, ...]:
    """The key ``faults`` of a profile or a section, by time. Raises `ProfileError`."""
    found = [_fault(item, fields.source, place, devices) for place, item in fields.items("faults")]
    return tuple(sorted(found, key=lambda fault: fault.at))


def limited(split: Split, *, count: int, memory: float, cores: float) -> Split:
    """`split` with the operator's figures; exclusive devices become limited shares by them."""
    sharing = Sharing.LIMITED if split.sharing is Sharing.EXCLUSIVE else split.sharing
    return replace(
        split,
        count=count,
        sharing=sharing,
        separator=SEPARATORS[sharing],
        memory_scaling=memory,
        cores_scaling=cores,
    )


def _snapshot(fields: Fields, origin: Origin, seed: str) -> Snapshot:
    if isinstance(fields.raw("devices"), Mapping):
        devices = _counted(fields, seed)
    else:
        if fields.raw("devices") is None:
            raise fields.wrong("devices", "is missing", "write a list, or count and template")
        devices = tuple(
            _device(Fields(item, fields.source, place, _DEVICE_KEYS), origin, seed, str(position))
            for position, (place, item) in enumerate(fields.items("devices"))
        )
        if origin is Origin.COMPOSED:
            devices = _linked(fields, devices)
    if origin is Origin.COMPOSED:
        _check_unique(fields, devices)
    return Snapshot(
        devices, MappingProxyType(fields.texts("attributes")), fields.strings("problems")
    )


def _changes(fields: Fields, origin: Origin, seed: str) -> tuple[Change, ...]:
    found = []
    for place, item in fields.items("changes"):
        known = ("at", "devices", "attributes", "problems")
        change = Fields(item, fields.source, place, known)
        found.append(Change(change.number("at"), _snapshot(change, origin, seed)))
    return tuple(sorted(found, key=lambda change: change.at))


def _device(fields: Fields, origin: Origin, seed: str, position: str) -> PhysicalDevice:
    """One device. A recorded one may say anything that a driver can say."""
    composed = origin is Origin.COMPOSED
    low = 0 if composed else -MOST
    index = fields.text("index", position if composed else "")
    made = f"GPU-{made_uuid(f'{seed}/{index}')}" if composed else ""
    device = PhysicalDevice(
        uuid=fields.text("uuid", made),
        index=index,
        model=fields.text("model", None if composed else ""),
        memory_mib=_optional(fields, "memoryMiB", low),
        cores_percent=fields.whole("coresPercent", 100, low),
        numa_node=_optional(fields, "numaNode", low),
        links=MappingProxyType(fields.wholes("links")),
        device_nodes=fields.strings("deviceNodes"),
        healthy=fields.flag("healthy", True),
        reason=fields.text("reason", ""),
        parent_uuid=fields.text("parent", ""),
        profile=fields.text("profile", ""),
        attributes=MappingProxyType(fields.texts("attributes")),
    )
    if composed and not device.uuid:
        raise fields.wrong("uuid", "is empty", "leave it out to have one made")
    return device


def _optional(fields: Fields, key: str, low: int) -> int | None:
    return fields.whole(key, low=low) if key in fields else None


def _counted(outer: Fields, seed: str) -> tuple[PhysicalDevice, ...]:
    """``count`` devices of one template, ``{index}`` filled in, spread over NUMA nodes."""
    fields = outer.sub("devices", ("count", "numaNodes", "links", "template"))
    count = fields.whole("count", None, 1, MOST_DEVICES)
    nodes = fields.whole("numaNodes", 0, 0, count)
    template = fields.raw("template")
    place = fields.place("template")
    Fields(template, outer.source, place, [key for key in _DEVICE_KEYS if key != "links"])
    assert isinstance(template, Mapping)
    devices = []
    for position in range(count):
        filled = {key: _filled(value, position) for key, value in template.items()}
        if nodes:
            filled.setdefault("numaNode", position * nodes // count)
        one = Fields(filled, outer.source, place, _DEVICE_KEYS)
        devices.append(_device(one, Origin.COMPOSED, seed, str(position)))
    links = fields.sub("links", ("sameNuma", "otherNuma"))
    near, far = links.whole("sameNuma", 0, 0), links.whole("otherNuma", 0, 0)
    return tuple(replace(device, links=_meshed(device, devices, near, far)) for device in devices)


def _meshed(
    one: PhysicalDevice, devices: Sequence[PhysicalDevice], near: int, far: int
) -> Mapping[str, int]:
    scores = {
        other.uuid: near if other.numa_node == one.numa_node else far
        for other in devices
        if other is not one
    }
    return MappingProxyType({uid: score for uid, score in scores.items() if score})


def _filled(value: object, position: int) -> object:
    """The value with ``{index}`` filled in; deeper than one level no template has texts."""
    if isinstance(value, str):
        return value.replace("{index}", str(position))
    if isinstance(value, (list, tuple)):
        return [_filled(item, position) if isinstance(item, str) else item for item in value]
    if isinstance(value, Mapping):
        return {
            key: _filled(item, position) if isinstance(item, str) else item
            for key, item in value.items()
        }
    return value


def _linked(fields: Fields, devices: tuple[PhysicalDevice, ...]) -> tuple[PhysicalDevice, ...]:
    """Links by index become links by uuid; a link to nobody is an error."""
    uuids = {device.index: device.uuid for device in devices}
    names = {**{device.uuid: device.uuid for device in devices}, **uuids}
    resolved = []
    for position, device in enumerate(devices):
        for other in device.links:
            if other not in names:
                key = f"devices[{position}].links.{other}"
                raise fields.wrong(key, "no such device", nearest(other, names))
        links = {names[other]: score for other, score in device.links.items()}
        resolved.append(replace(device, links=MappingProxyType(links)))
    return tuple(resolved)


def _check_unique(fields: Fields, devices: Sequence[PhysicalDevice]) -> None:
    for what in ("uuid", "index"):
        values = [getattr(device, what) for device in devices]
        for position, value in enumerate(values):
            if value in values[:position]:
                key = f"devices[{position}].{what}"
                remedy = "give each device its own; the fault duplicate-uuid simulates this"
                raise fields.wrong(key, f"{shown(value)} stands twice", remedy)


def _split(outer: Fields) -> Split:
    known = ("count", "sharing", "memoryScaling", "coreScaling", "maxRequest")
    fields = outer.sub("split", known)
    count = fields.whole("count", 1, 1, MOST_SHARES)
    natural = Sharing.LIMITED if "count" in fields else Sharing.EXCLUSIVE
    sharing = fields.choice("sharing", Sharing, natural)
    if sharing is Sharing.EXCLUSIVE and count > 1:
        reason = f"{count} virtual devices of an exclusive device"
        raise fields.wrong("count", reason, "write sharing: limited, or count: 1")
    return Split(
        count=count,
        separator=SEPARATORS[sharing],
        sharing=sharing,
        memory_scaling=fields.number("memoryScaling", 1.0, 0.01, 1000.0),
        cores_scaling=fields.number("coreScaling", 1.0, 0.01, 1000.0),
        max_request=fields.whole("maxRequest", 0, 0),
    )


def _mount(data: object, source: str, place: str) -> ProfileMount:
    fields = Fields(data, source, place, ("hostPath", "containerPath", "options", "create"))
    for key in ("hostPath", "containerPath"):
        if not fields.text(key).startswith("/"):
            raise fields.wrong(key, f"{shown(fields.text(key))} is relative", "begin with /")
    mount = Mount(fields.text("hostPath"), fields.text("containerPath"), fields.strings("options"))
    return ProfileMount(mount, fields.flag("create", False))


def _partition(data: object, source: str, place: str) -> PartitionSize:
    fields = Fields(data, source, place, ("memoryMiB", "coresPercent"))
    return PartitionSize(
        fields.whole("memoryMiB", low=1), fields.whole("coresPercent", None, 1, 100)
    )


def _fault(data: object, source: str, place: str, devices: Sequence[PhysicalDevice]) -> Fault:
    known = ("at", "until", "device", "fault", "seconds", "reason")
    fields = Fields(data, source, place, known)
    kind = fields.choice("fault", FaultKind)
    at = fields.number("at", 0.0)
    until = fields.number("until", 0.0) if "until" in fields else None
    if until is not None and kind in ENDINGS:
        raise fields.wrong("until", f"{kind} happens at one moment", "remove it")
    if until is not None and until <= at:
        raise fields.wrong("until", f"{until:g} is not after {at:g}", "write a later second")
    if ("seconds" in fields) != (kind is FaultKind.SLOW):
        raise fields.wrong("seconds", "goes with slow and only there", "write or remove it")
    single = kind in DEVICE_FAULTS and kind is not FaultKind.EMPTY_LIST
    if fields.raw("device") is not None and not single:
        raise fields.wrong("device", f"{kind} is of no single device", "remove it")
    device = _named(fields, devices)
    return Fault(kind, at, until, device, fields.number("seconds", 0.0), fields.text("reason", ""))


def _usage(outer: Fields, devices: Sequence[PhysicalDevice]) -> tuple[Busy, ...]:
    uuids = {one.index: one.uuid for one in devices} | {one.uuid: one.uuid for one in devices}
    found = []
    for place, item in outer.items("usage"):
        fields = Fields(item, outer.source, place, _USAGE_KEYS)
        used, cores, controller = (
            fields.number(key, high=most) if key in fields else None
            for key, most in (
                ("usedMiB", MOST),
                ("utilisationPercent", 100),
                ("memoryControllerPercent", 100),
            )
        )
        device = uuids.get(_named(fields, devices), "")
        usage = Usage(device, used, cores, controller)
        found.append(Busy(fields.number("at", 0.0), usage))
    return tuple(sorted(found, key=lambda busy: busy.at))


def _named(fields: Fields, devices: Sequence[PhysicalDevice]) -> str:
    """The index or uuid under ``device``, empty where all devices are meant."""
    device = fields.raw("device")
    if device is None:
        return ""
    word = str(device) if type(device) is int and abs(device) < 1_000_000 else device
    names = [name for one in devices for name in (one.index, one.uuid)]
    if not isinstance(word, str) or not word or word not in names:
        raise fields.wrong("device", f"no device {shown(device)}", nearest(word, names))
    return word
