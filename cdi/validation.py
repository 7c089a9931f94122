"""The rules of a valid specification (cdi.md 1.4), and those a careful writer adds.

Readers enforce the former; a file that breaks one of them is invisible as a whole. `strict` adds
what no reader enforces and still fails later or elsewhere: everything that we write keeps to both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from deviceplugin.cdi.errors import CDIError, Problem
from deviceplugin.cdi.model import (
    ContainerEdits,
    Device,
    DeviceNode,
    Hook,
    IntelRdt,
    Mount,
    NetDevice,
    Spec,
)
from deviceplugin.cdi.names import device_name_problem, kind_problem, length_problem
from deviceplugin.cdi.schema import walk
from deviceplugin.cdi.versions import rank, required_version

HOOK_NAMES = (
    *("prestart", "createRuntime", "createContainer"),
    *("startContainer", "poststart", "poststop"),
)
NODE_TYPES = ("", "b", "c", "u", "p")
MAX_ANNOTATION_BYTES = 256 * 1024
MAX_CLOS_ID = 4096
_INT64, _UINT32 = range(-(2**63), 2**63), range(2**32)
_ANNOTATION_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
_ANNOTATION_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

_Found = Iterator[tuple[str, object, str]]
"""Field, value and rule of what is wrong with one value of the model."""


def check(spec: Spec, source: str = "", *, strict: bool = True) -> None:
    """Raise `CDIError` with every problem of the specification."""
    if found := problems(spec, source, strict=strict):
        raise CDIError(found)


def problems(spec: Spec, source: str = "", *, strict: bool = True) -> tuple[Problem, ...]:
    """Every problem, with file, field, value and rule; none for a valid specification.

    A specification without a version counts as having the lowest that covers it.
    """
    tables = (_RULES, _CARE) if strict else (_RULES,)
    return tuple(
        Problem(source, f"{place}.{field}".removeprefix("."), str(value), rule)
        for place, part in walk(spec)
        for table in tables
        if type(part) in table
        for field, value, rule in table[type(part)](part)
    )


def _spec(spec: Spec) -> _Found:
    version, need = spec.cdi_version, required_version(spec)
    if version and rank(version) < 0:
        yield "cdiVersion", version, f'invalid version "{version}"; {need} is enough'
    elif version and rank(version) < rank(need):
        yield "cdiVersion", version, f"the spec version must be at least v{need}"
    if rule := kind_problem(spec.kind):
        yield "kind", spec.kind, rule
    if not spec.devices:
        yield "devices", "", "invalid spec, no devices"
    yield from _unique("devices", "name", [device.name for device in spec.devices])


def _device(device: Device) -> _Found:
    if rule := device_name_problem(device.name):
        yield "name", device.name, rule
    if not device.container_edits:
        yield "containerEdits", device.name, "invalid device, empty device edits"


def _edits(edits: ContainerEdits) -> _Found:
    yield from _env(edits.env)
    hosts = [device.host_interface_name for device in edits.net_devices]
    yield from _unique("netDevices", "hostInterfaceName", hosts)
    yield from _unique("netDevices", "name", [device.name for device in edits.net_devices])
    for position, gid in enumerate(edits.additional_gids):
        yield from _number(f"additionalGids[{position}]", gid, _UINT32)


def _node(node: DeviceNode) -> _Found:
    yield from _given("path", node.path)
    if node.type not in NODE_TYPES:
        yield "type", node.type, "a node's type is b, c, u or p"
    if not set(node.permissions) <= set("rwm"):
        yield "permissions", node.permissions, "permissions are letters out of r, w, m"
    yield from _number("major", node.major, _INT64)
    yield from _number("minor", node.minor, _INT64)
    yield from _number("fileMode", node.file_mode, _UINT32)
    yield from _number("uid", node.uid, _UINT32)
    yield from _number("gid", node.gid, _UINT32)


def _mount(mount: Mount) -> _Found:
    yield from _given("hostPath", mount.host_path)
    yield from _given("containerPath", mount.container_path)


def _hook(hook: Hook) -> _Found:
    if hook.hook_name not in HOOK_NAMES:
        yield "hookName", hook.hook_name, f"a hook is one of {', '.join(HOOK_NAMES)}"
    yield from _given("path", hook.path)
    yield from _env(hook.env)
    yield from _number("timeout", hook.timeout, _INT64)


def _net_device(device: NetDevice) -> _Found:
    yield from _given("hostInterfaceName", device.host_interface_name)
    yield from _given("name", device.name)


def _rdt(rdt: IntelRdt) -> _Found:
    name = rdt.clos_id
    plain = len(name) < MAX_CLOS_ID and not {"/", "\n"} & {*name} and name not in (".", "..")
    if not plain and name != "/":
        rule = f"a class of service is / or a file name below {MAX_CLOS_ID} characters"
        yield "closID", name, rule


def _careful_spec(spec: Spec) -> _Found:
    if rule := length_problem(*spec.kind.split("/")):
        yield "kind", spec.kind, rule
    yield from _annotations(spec.annotations)


def _careful_device(device: Device) -> _Found:
    if rule := length_problem("", device.name):
        yield "name", device.name, rule
    yield from _annotations(device.annotations)


def _careful_node(node: DeviceNode) -> _Found:
    yield from _absolute("path", node.path)
    yield from _absolute("hostPath", node.host_path)
    for field, number in (("major", node.major), ("minor", node.minor)):
        if number < 0:
            yield field, number, "a negative number would mean every device"
    if node.file_mode is not None and not 0 < node.file_mode <= 0o7777:
        yield "fileMode", node.file_mode, "a mode is 1 to 4095; without one the host's counts"


def _careful_mount(mount: Mount) -> _Found:
    yield from _absolute("hostPath", mount.host_path)
    yield from _absolute("containerPath", mount.container_path)


def _careful_hook(hook: Hook) -> _Found:
    yield from _absolute("path", hook.path)
    if hook.timeout is not None and hook.timeout <= 0:
        yield "timeout", hook.timeout, "a time-out is at least one second"


def _annotations(annotations: Mapping[str, str]) -> _Found:
    size = sum(len(text.encode()) for item in annotations.items() for text in item)
    if size > MAX_ANNOTATION_BYTES:
        yield "annotations", "", f"{size} bytes are more than {MAX_ANNOTATION_BYTES}"
    for key in annotations:
        prefix, slash, name = key.lower().rpartition("/")
        if slash and not (len(prefix) <= 253 and _ANNOTATION_PREFIX.fullmatch(prefix)):
            yield "annotations", key, "the part of a key before / is a DNS name"
        if not _ANNOTATION_NAME.fullmatch(name):
            yield "annotations", key, "a key's name has 1 to 63 letters, digits, - _ ."


def _env(entries: Iterable[str]) -> _Found:
    for position, entry in enumerate(entries):
        if entry.find("=") < 1:
            yield f"env[{position}]", entry, "a variable is NAME=value with a name"


def _unique(field: str, key: str, names: Iterable[str]) -> _Found:
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if (earlier := first.setdefault(name, position)) != position:
            yield f"{field}[{position}].{key}", name, f"{field}[{earlier}] has the same name"


def _given(field: str, text: str) -> _Found:
    if not text:
        yield field, "", "must not be empty"


def _absolute(field: str, path: str) -> _Found:
    if path and not path.startswith("/"):
        yield field, path, "a path must be absolute"


def _number(field: str, value: int | None, allowed: range) -> _Found:
    if value is not None and value not in allowed:
        yield field, value, f"must be from {allowed.start} to {allowed.stop - 1}"


_Rules = Mapping[type, Callable[[Any], _Found]]
_RULES: _Rules = {
    Spec: _spec,
    Device: _device,
    ContainerEdits: _edits,
    DeviceNode: _node,
    Mount: _mount,
    Hook: _hook,
    NetDevice: _net_device,
    IntelRdt: _rdt,
}
_CARE: _Rules = {
    Spec: _careful_spec,
    Device: _careful_device,
    DeviceNode: _careful_node,
    Mount: _careful_mount,
    Hook: _careful_hook,
}
