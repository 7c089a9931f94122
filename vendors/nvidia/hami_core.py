"""libvgpu (HAMi-core) in a container: the environment that it reads and the files that load it.

Source: hami-nvidia-node.md 3.5, 6.1, 6.2. The library is not ours; what is there of it on the host
is found in discovery and kept with the devices, so that the edits stay pure.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deviceplugin.vendor import ContainerEdits, Grant, HostDirectory, Mount, Owner
from deviceplugin.vendors.nvidia import limits
from deviceplugin.vendors.nvidia.facts import LIBVGPU, LICENSE
from deviceplugin.vendors.nvidia.host import joined
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

LIBRARY = "libvgpu.so"
PRELOAD = "ld.so.preload"
LOCK_DIRECTORY = "/tmp/vgpulock"  # noqa: S108 - the path that the library opens
READ_ONLY = ("ro", "nosuid", "nodev", "rbind", "rprivate")
READ_WRITE = ("rw", "nosuid", "nodev", "rbind", "rprivate")
LIMIT_VARIABLES = (
    "CUDA_DEVICE_MEMORY_LIMIT",
    "CUDA_DEVICE_SM_LIMIT",
    "CUDA_DEVICE_MEMORY_SHARED_CACHE",
)
DISABLE_CONTROL = "CUDA_DISABLE_CONTROL"
TRUE_WORDS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
"""What HAMi's plugin takes for true (hami-nvidia-node.md 3.5)."""

_CACHE_NAMES = uuid.UUID("5e2f3f0c-6f0e-5d0b-9c53-5f7f6d3f7a41")


def directory(settings: NvidiaSettings) -> str:
    """The directory of the library and of its caches, on the host and in the container."""
    return f"{settings.hook_path}/vgpu"


def files(settings: NvidiaSettings) -> dict[str, str]:
    """Which of the library's files are on the host, as attributes of a device."""
    folder = _seen(settings)
    try:
        names = [path.name for path in folder.iterdir()]
        link = folder / LIBRARY
        chosen = Path(link.readlink()).name if link.is_symlink() else ""
    except OSError:
        return {}
    # The link is the installer's word, also after a step back to an older version.
    found = {LIBVGPU: chosen if chosen in names else newest(names)}
    if "license" in names:
        found[LICENSE] = "present"
    return found


def newest(names: Iterable[str]) -> str:
    """The library to load among these files: the highest version of ``libvgpu.so.<version>``, else
    the plain one; empty when there is none.
    """
    versioned = [name for name in names if name.startswith(f"{LIBRARY}.")]
    if versioned:
        return max(versioned, key=_version)
    return LIBRARY if LIBRARY in names else ""


def _version(name: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", name)], name


def impediment(settings: NvidiaSettings) -> str:
    """What of the library is missing on the host; empty when containers can be limited."""
    folder, place = _seen(settings), directory(settings)
    remedy = "install it with `deviceplugin hook install`, or set isolation: none"
    if not files(settings).get(LIBVGPU):
        return f"{place}/{LIBRARY} is missing on the node: memory limits need it; {remedy}"
    try:
        lines = (folder / PRELOAD).read_text(errors="replace").split()
    except OSError:
        return f"{place}/{PRELOAD} is missing on the node: nothing loads libvgpu; {remedy}"
    if f"{place}/{LIBRARY}" not in lines:
        return (
            f"{place}/{PRELOAD} does not name {place}/{LIBRARY}, so nothing would load it; {remedy}"
        )
    return ""


def edits(grants: Sequence[Grant], owner: Owner, settings: NvidiaSettings) -> ContainerEdits:
    """The limits of these shares, by position in the container.

    Raises `ValueError` where a limit cannot be expressed: without the library, or for a part of a
    device whose memory nobody knows; and where the container's own variables would undo it.
    """
    place = directory(settings)
    preloaded = _check_own_variables(owner, settings)
    library = grants[0].device.attributes.get(LIBVGPU, "")
    if not library:
        raise ValueError(f"limits need {place}/{LIBRARY}, which was not on the node: try again")
    cache = f"{place}/containers/{_container(owner)}"
    mounts = [
        Mount(f"{place}/{library}", f"{place}/{LIBRARY}", READ_ONLY),
        Mount(cache, place, READ_WRITE),
        Mount(LOCK_DIRECTORY, LOCK_DIRECTORY, READ_WRITE),
    ]
    if preloaded:
        mounts.append(Mount(f"{place}/{PRELOAD}", "/etc/ld.so.preload", READ_ONLY))
    if LICENSE in grants[0].device.attributes:
        mounts += [
            Mount(f"{place}/license", "/tmp/license", READ_ONLY),  # noqa: S108
            Mount(f"{place}/vgpuvalidator", "/usr/bin/vgpuvalidator", READ_ONLY),
        ]
    return ContainerEdits(
        env={
            **_limits(grants),
            "CUDA_DEVICE_MEMORY_SHARED_CACHE": f"{place}/{_cache_name(owner)}.cache",
            **_tuning(grants, settings),
        },
        mounts=tuple(mounts),
        host_directories=(
            HostDirectory(cache, 0o777, private=True),
            HostDirectory(LOCK_DIRECTORY, 0o777),
        ),
    )


def _check_own_variables(owner: Owner, settings: NvidiaSettings) -> bool:
    """Whether the library is to be loaded. A limit that a pod can switch off is none, so only the
    operator may allow that, and variables that set limits are nobody's but ours.

    Raises `ValueError`.
    """
    limits.check_variables(owner, LIMIT_VARIABLES)
    if owner.environment.get(DISABLE_CONTROL) not in TRUE_WORDS:
        return True
    if not settings.section.allow_disable_control:
        raise ValueError(
            f"container {owner.container} of pod {owner.pod_namespace}/{owner.pod_name} sets "
            f"{DISABLE_CONTROL}: remove it, or let the operator set nvidia.allowDisableControl"
        )
    return False


def _limits(grants: Sequence[Grant]) -> Mapping[str, str]:
    env = {}
    for position, grant in enumerate(grants):
        if (mib := limits.memory(grant)) is not None:
            env[f"CUDA_DEVICE_MEMORY_LIMIT_{position}"] = f"{mib}m"
    cores = [grant.cores_percent for grant in grants]
    if cores[0] is not None:
        env["CUDA_DEVICE_SM_LIMIT"] = str(cores[0])
    if len(set(cores)) > 1:
        # The library's one limit for all devices would be wrong for all but the first.
        env |= {
            f"CUDA_DEVICE_SM_LIMIT_{position}": str(limit)
            for position, limit in enumerate(cores)
            if limit is not None
        }
    return env


def _tuning(grants: Sequence[Grant], settings: NvidiaSettings) -> Mapping[str, str]:
    env = {}
    if any(grant.memory_scaling > 1 for grant in grants):
        env["CUDA_OVERSUBSCRIBE"] = "true"
    if settings.section.lib_cuda_log_level:
        env["LIBCUDA_LOG_LEVEL"] = settings.section.lib_cuda_log_level
    if settings.section.disable_core_limit:
        env["GPU_CORE_UTILIZATION_POLICY"] = "disable"
    return env


def _cache_name(owner: Owner) -> uuid.UUID:
    """Upstream draws it at random; readers only look for ``*.cache``, and ours stays the same for
    the same allocation.
    """
    return uuid.uuid5(_CACHE_NAMES, owner.allocation_id)


def _container(owner: Owner) -> str:
    if owner.pod_uid and owner.container:
        return f"{owner.pod_uid}_{owner.container}"
    return owner.allocation_id


def _seen(settings: NvidiaSettings) -> Path:
    return Path(joined(settings.host_root, directory(settings)))
