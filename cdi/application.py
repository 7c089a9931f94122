"""Edits applied to an OCI runtime specification, as a runtime does it.

The semantics are those of the reference library 1.1.0, down to what it leaves in place (cdi.md 3).
"""

from __future__ import annotations

import copy
import os
import posixpath
import stat as modes
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from deviceplugin.cdi.cache import Cache
from deviceplugin.cdi.errors import CDIError, error
from deviceplugin.cdi.model import ContainerEdits, DeviceNode, Mount
from deviceplugin.cdi.resolution import combine, resolve
from deviceplugin.cdi.schema import plain

Stat = Callable[[str], os.stat_result]
_KINDS = ((modes.S_ISBLK, "b"), (modes.S_ISCHR, "c"), (modes.S_ISFIFO, "p"))


def apply(
    oci: dict[str, Any], names: Iterable[str], cache: Cache, stat: Stat = os.lstat
) -> dict[str, Any]:
    """The OCI specification after injecting these devices; `oci` itself stays as it is.

    `stat` looks at the host's nodes. Raises `UnresolvableError`, or `CDIError` for a host node
    that is needed and missing or another.
    """
    return apply_edits(oci, combine(resolve(names, cache)), stat)


def apply_edits(
    oci: dict[str, Any], edits: ContainerEdits, stat: Stat = os.lstat
) -> dict[str, Any]:
    """The OCI specification after these edits; otherwise as `apply`."""
    result = copy.deepcopy(oci)
    if edits.env:  # only appended: of a name that stood there before, the later one wins at exec
        _part(result, "process").setdefault("env", []).extend(edits.env)
    for node in edits.device_nodes:
        _add_node(result, _filled(node, stat))
    for device in edits.net_devices:
        _part(result, "linux", "netDevices")[device.host_interface_name] = {"name": device.name}
    if edits.mounts:
        result["mounts"] = _mounts(result.get("mounts") or [], edits.mounts)
    for hook in edits.hooks:
        entry = plain(hook)
        _part(result, "hooks").setdefault(entry.pop("hookName"), []).append(entry)
    if edits.intel_rdt:
        _part(result, "linux")["intelRdt"] = plain(edits.intel_rdt)
    for gid in filter(None, edits.additional_gids):
        gids = _part(result, "process", "user").setdefault("additionalGids", [])
        if gid not in gids:
            gids.append(gid)
    return result


def _part(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The object at these keys, made where it is missing."""
    for key in keys:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
    return data


def _filled(node: DeviceNode, stat: Stat) -> DeviceNode:
    """The node with what it leaves open read from the host's.

    A mode that is left open is read too where it can be; nothing else of a node that is complete.
    """
    complete = bool(node.type and (node.major or node.type == "p"))
    host = node.host_path or node.path
    try:
        kind, found = _host_node(host, stat)
    except CDIError:
        if complete:
            return node
        raise
    if node.file_mode is None:
        node = replace(node, file_mode=modes.S_IMODE(found.st_mode))
    if complete:
        return node
    if node.type and node.type != kind:
        raise error(f'CDI device "{node.path}" has type {node.type}, "{host}" has {kind}')
    if node.major or kind == "p":
        return replace(node, type=kind)
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return replace(node, type=kind, major=major, minor=minor)


def _host_node(path: str, stat: Stat) -> tuple[str, os.stat_result]:
    """Type and status of a device node of the host. Raises `CDIError` for anything else."""
    try:
        found = stat(path)
    except OSError as problem:
        reason = os.strerror(problem.errno or 0).lower()
        raise error(f'failed to stat CDI host device "{path}": {reason}') from None
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            return kind, found
    raise error(f'failed to stat CDI host device "{path}": not a device node')


def _add_node(result: dict[str, Any], node: DeviceNode) -> None:
    """A device of the container, owned by its user, and the cgroup rule to open it."""
    user = (result.get("process") or {}).get("user") or {}
    optional = {
        "fileMode": node.file_mode,
        "uid": (user.get("uid") or None) if node.uid is None else node.uid,
        "gid": (user.get("gid") or None) if node.gid is None else node.gid,
    }
    numbers = {"type": node.type, "major": node.major, "minor": node.minor}
    given = {key: value for key, value in optional.items() if value is not None}
    linux = _part(result, "linux")
    others = [item for item in linux.get("devices") or [] if item["path"] != node.path]
    linux["devices"] = [*others, {"path": node.path, **numbers, **given}]
    if node.type in ("b", "c"):
        rule = {"allow": True, **numbers, "access": node.permissions or "rwm"}
        _part(linux, "resources").setdefault("devices", []).append(rule)


def _mounts(existing: Iterable[dict[str, Any]], mounts: Iterable[Mount]) -> list[dict[str, Any]]:
    """All mounts, parents before children; where paths are equally deep the order stays."""
    result = list(existing)
    for mount in mounts:
        paths = [item["destination"] for item in result]
        if mount.container_path in paths:  # one of several: what was stacked stays stacked
            del result[paths.index(mount.container_path)]
        entry: dict[str, Any] = {"destination": mount.container_path, "source": mount.host_path}
        if mount.type:
            entry["type"] = mount.type
        if mount.options:
            entry["options"] = list(mount.options)
        result.append(entry)
    return sorted(result, key=lambda item: _depth(item["destination"]))


def _depth(path: str) -> int:
    """How many parts a path has; two slashes at its start are one, as POSIX need not have it."""
    plain_start = f"/{path.lstrip('/')}" if path.startswith("/") else path
    return posixpath.normpath(plain_start).count("/")
