"""What a runtime does with requested devices: resolve names, then edit an OCI specification.

The semantics are those measured with the reference library 1.1.0 (cdi.md 3): all names resolve or
nothing is injected; a file's own edits come once, before the first of its devices.
"""

from __future__ import annotations

import copy
import os
import stat as modes
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deviceplugin.cdi.cache import Cache
from deviceplugin.cdi.errors import CDIError, error
from deviceplugin.cdi.model import ContainerEdits, DeviceNode, Hook

Stat = Callable[[str], os.stat_result]


class UnresolvableError(CDIError):
    """Some names are in no readable file; `names` lists them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(error(f"unresolvable CDI devices {', '.join(names)}").problems)


def resolve(names: Iterable[str], cache: Cache) -> tuple[ContainerEdits, ...]:
    """The edits of these devices in the order in which they are applied.

    Raises `UnresolvableError` naming all that are unknown.
    """
    names = list(names)
    if missing := [name for name in names if name not in cache.devices]:
        raise UnresolvableError(missing)
    edits: list[ContainerEdits] = []
    seen = set()
    for name in names:
        found = cache.devices[name]
        if found.origin.path not in seen:
            seen.add(found.origin.path)
            edits.append(found.origin.spec.container_edits)
        edits.append(found.device.container_edits)
    return tuple(edits)


def combine(parts: Iterable[ContainerEdits]) -> ContainerEdits:
    """Edits one after the other; a later variable replaces an earlier one in its place."""
    env: dict[str, str] = {}
    parts = list(parts)
    for part in parts:
        for entry in part.env:
            env[entry.partition("=")[0]] = entry
    return ContainerEdits(
        env=tuple(env.values()),
        device_nodes=tuple(node for part in parts for node in part.device_nodes),
        net_devices=tuple(device for part in parts for device in part.net_devices),
        hooks=tuple(hook for part in parts for hook in part.hooks),
        mounts=tuple(mount for part in parts for mount in part.mounts),
        intel_rdt=next((p.intel_rdt for p in reversed(parts) if p.intel_rdt), None),
        additional_gids=tuple(gid for part in parts for gid in part.additional_gids),
    )


def apply(
    oci: dict[str, Any], names: Iterable[str], cache: Cache, stat: Stat = os.lstat
) -> dict[str, Any]:
    """The OCI specification after injecting these devices; `oci` itself stays as it is.

    `stat` looks at host nodes whose type or numbers the edits leave open. Raises
    `UnresolvableError`, or `CDIError` for a host node that cannot be looked at.
    """
    edits = combine(resolve(names, cache))
    result = copy.deepcopy(oci)
    process = result.setdefault("process", {})
    if edits.env:
        process.setdefault("env", []).extend(edits.env)
    if edits.device_nodes:
        linux = result.setdefault("linux", {})
        for node in edits.device_nodes:
            _add_device(linux, _filled(node, stat), process.get("user", {}))
    if edits.net_devices:
        devices = result.setdefault("linux", {}).setdefault("netDevices", {})
        for device in edits.net_devices:
            devices[device.host_interface_name] = {"name": device.name}
    if edits.mounts:
        _add_mounts(result, edits)
    for hook in edits.hooks:
        hooks = result.setdefault("hooks", {})
        hooks.setdefault(hook.hook_name, []).append(_oci_hook(hook))
    if rdt := edits.intel_rdt:
        result.setdefault("linux", {})["intelRdt"] = {
            key: value
            for key, value in (
                ("closID", rdt.clos_id),
                ("l3CacheSchema", rdt.l3_cache_schema),
                ("memBwSchema", rdt.mem_bw_schema),
                ("schemata", list(rdt.schemata)),
                ("enableMonitoring", rdt.enable_monitoring),
            )
            if value
        }
    if edits.additional_gids:
        gids = process.setdefault("user", {}).setdefault("additionalGids", [])
        gids.extend(gid for gid in dict.fromkeys(edits.additional_gids) if gid and gid not in gids)
    return result


def _filled(node: DeviceNode, stat: Stat) -> dict[str, Any]:
    """The OCI device of a node; what is open is read from the host's node."""
    data: dict[str, Any] = {"path": node.path, "type": node.type}
    data |= {"major": node.major, "minor": node.minor, "fileMode": node.file_mode}
    if not node.type or (not node.major and node.type != "p"):
        host = node.host_path or node.path
        try:
            found = stat(host)
        except OSError as problem:
            why = os.strerror(problem.errno or 0).lower()
            rule = f'failed to stat CDI host device "{host}": {why}'
            raise error(rule) from None
        kind = _node_type(found.st_mode)
        if not kind or (node.type and node.type != kind):
            raise error(f'CDI host device "{host}" is not the device node it should be')
        data["type"] = kind
        data["major"], data["minor"] = os.major(found.st_rdev), os.minor(found.st_rdev)
        if data["fileMode"] is None:
            data["fileMode"] = modes.S_IMODE(found.st_mode)
    data["permissions"] = node.permissions or "rwm"
    data |= {"uid": node.uid, "gid": node.gid}
    return data


def _node_type(mode: int) -> str:
    for test, letter in ((modes.S_ISBLK, "b"), (modes.S_ISCHR, "c"), (modes.S_ISFIFO, "p")):
        if test(mode):
            return letter
    return ""


def _add_device(linux: dict[str, Any], data: dict[str, Any], user: dict[str, Any]) -> None:
    permissions = data.pop("permissions")
    for key in ("uid", "gid"):
        if data[key] is None and user.get(key, 0) > 0:
            data[key] = user[key]
    device = {key: value for key, value in data.items() if value is not None}
    others = [item for item in linux.get("devices", []) if item["path"] != device["path"]]
    linux["devices"] = [*others, device]
    if device["type"] in ("b", "c"):
        rules = linux.setdefault("resources", {}).setdefault("devices", [])
        rule = {key: device[key] for key in ("type", "major", "minor")}
        rules.append({"allow": True, **rule, "access": permissions})


def _add_mounts(result: dict[str, Any], edits: ContainerEdits) -> None:
    mounts = list(result.get("mounts", []))
    for mount in edits.mounts:
        mounts = [item for item in mounts if item["destination"] != mount.container_path]
        new: dict[str, Any] = {"destination": mount.container_path, "source": mount.host_path}
        if mount.options:
            new["options"] = list(mount.options)
        if mount.type:
            new["type"] = mount.type
        mounts.append(new)
    result["mounts"] = sorted(mounts, key=lambda item: _depth(item["destination"]))


def _depth(path: str) -> int:
    return len([part for part in path.split("/") if part])


def _oci_hook(hook: Hook) -> dict[str, Any]:
    data: dict[str, Any] = {"path": hook.path}
    if hook.args:
        data["args"] = list(hook.args)
    if hook.env:
        data["env"] = list(hook.env)
    if hook.timeout is not None:
        data["timeout"] = hook.timeout
    return data
