"""The rules of a valid specification (cdi.md 1.4), and those a careful writer adds.

`problems` applies the rules of the reference reader. With `strict`, what it does not enforce is
checked as well (absolute paths, positive time-outs, annotation keys and size): everything that we
write passes that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from deviceplugin.cdi.errors import CDIError, Problem
from deviceplugin.cdi.model import ContainerEdits, Hook, IntelRdt, Spec
from deviceplugin.cdi.names import device_name_problem, kind_problem
from deviceplugin.cdi.versions import RELEASED, rank, required_version

HOOK_NAMES = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
NODE_TYPES = ("", "b", "c", "u", "p")
MAX_ANNOTATION_BYTES = 256 * 1024
MAX_CLOS_ID = 4096
_ANNOTATION_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_ANNOTATION_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

Found = Iterator[tuple[str, str, str]]


def check(spec: Spec, source: str = "", *, strict: bool = True) -> None:
    """Raise `CDIError` with every problem of the specification."""
    if found := problems(spec, source, strict=strict):
        raise CDIError(found)


def problems(spec: Spec, source: str = "", *, strict: bool = True) -> tuple[Problem, ...]:
    """Every problem, with file, field, value and rule; none for a valid specification."""
    return tuple(Problem(source, *found) for found in _spec(spec, strict))


def _spec(spec: Spec, strict: bool) -> Found:
    if spec.cdi_version:
        yield from _version(spec)
    if rule := kind_problem(spec.kind):
        yield "kind", spec.kind, rule
    yield from _annotations("annotations", spec.annotations, strict)
    yield from _edits("containerEdits", spec.container_edits, strict)
    if not spec.devices:
        yield "devices", "", "invalid spec, no devices"
    seen: set[str] = set()
    for position, device in enumerate(spec.devices):
        place = f"devices[{position}]"
        if rule := device_name_problem(device.name):
            yield f"{place}.name", device.name, rule
        if device.name in seen:
            yield f"{place}.name", device.name, "another device of this file has the same name"
        seen.add(device.name)
        if not device.container_edits:
            yield f"{place}.containerEdits", device.name, "invalid device, empty device edits"
        yield from _annotations(f"{place}.annotations", device.annotations, strict)
        yield from _edits(f"{place}.containerEdits", device.container_edits, strict)


def _version(spec: Spec) -> Found:
    need = required_version(spec)
    if rank(spec.cdi_version) < 0:
        known = ", ".join(RELEASED)
        yield (
            "cdiVersion",
            spec.cdi_version,
            f'invalid version "{spec.cdi_version}"; one of {known}',
        )
    elif rank(spec.cdi_version) < rank(need):
        yield "cdiVersion", spec.cdi_version, f"the spec version must be at least v{need}"


def _edits(place: str, edits: ContainerEdits, strict: bool) -> Found:
    yield from _env(f"{place}.env", edits.env)
    for position, node in enumerate(edits.device_nodes):
        where = f"{place}.deviceNodes[{position}]"
        yield from _path(f"{where}.path", node.path, strict)
        if node.host_path:
            yield from _path(f"{where}.hostPath", node.host_path, strict)
        if node.type not in NODE_TYPES:
            yield f"{where}.type", node.type, "a node's type is b, c, u or p"
        if set(node.permissions) - set("rwm"):
            yield f"{where}.permissions", node.permissions, "permissions are letters out of r, w, m"
        if strict and node.file_mode == 0:
            yield f"{where}.fileMode", "0", "a mode of 000 makes the node unusable; leave it out"
    for position, mount in enumerate(edits.mounts):
        where = f"{place}.mounts[{position}]"
        yield from _path(f"{where}.hostPath", mount.host_path, strict)
        yield from _path(f"{where}.containerPath", mount.container_path, strict)
    for position, hook in enumerate(edits.hooks):
        yield from _hook(f"{place}.hooks[{position}]", hook, strict)
    for side in ("hostInterfaceName", "name"):
        names = [d.name if side == "name" else d.host_interface_name for d in edits.net_devices]
        for position, name in enumerate(names):
            where = f"{place}.netDevices[{position}].{side}"
            if not name:
                yield where, "", "a network device needs both names"
            elif name in names[:position]:
                yield where, name, "another network device has the same name"
    if edits.intel_rdt:
        yield from _rdt(f"{place}.intelRdt.closID", edits.intel_rdt)


def _hook(place: str, hook: Hook, strict: bool) -> Found:
    if hook.hook_name not in HOOK_NAMES:
        yield f"{place}.hookName", hook.hook_name, f"a hook is one of {', '.join(HOOK_NAMES)}"
    yield from _path(f"{place}.path", hook.path, strict)
    yield from _env(f"{place}.env", hook.env)
    if strict and hook.timeout is not None and hook.timeout <= 0:
        yield f"{place}.timeout", str(hook.timeout), "a time-out is a positive number of seconds"


def _env(place: str, entries: tuple[str, ...]) -> Found:
    for position, entry in enumerate(entries):
        if entry.find("=") < 1:
            yield f"{place}[{position}]", entry, "a variable is NAME=value with a name"


def _path(place: str, path: str, strict: bool) -> Found:
    if not path:
        yield place, "", "a path must not be empty"
    elif strict and not path.startswith("/"):
        yield place, path, "a path must be absolute"


def _rdt(place: str, rdt: IntelRdt) -> Found:
    name = rdt.clos_id
    wrong = len(name) >= MAX_CLOS_ID or "\n" in name or name in (".", "..")
    if wrong or ("/" in name and name != "/"):
        yield place, name, "a class of service is / or a plain name below 4096 characters"


def _annotations(place: str, annotations: Mapping[str, str], strict: bool) -> Found:
    if not strict:
        return
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > MAX_ANNOTATION_BYTES:
        yield place, "", f"annotations have {size} bytes, more than {MAX_ANNOTATION_BYTES}"
    for key in annotations:
        prefix, slash, name = key.lower().rpartition("/")
        if slash and not (len(prefix) <= 253 and _ANNOTATION_PREFIX.fullmatch(prefix)):
            yield place, key, "the part of a key before / is a DNS name"
        if not _ANNOTATION_NAME.fullmatch(name):
            yield place, key, "a key's name has 1 to 63 letters, digits, - _ ."
