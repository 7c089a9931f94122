"""CDI specifications of what this node has, as NVIDIA's own generator describes them.

Source: cdi.md 5.1, 5.2; hami-nvidia-node.md 5.2, 5.3. Ours differs in three points: the class
``gpu`` has the device ``all``; a GPU in MIG mode is listed where the MIG strategy is ``none``,
which offers it whole; group ids are left out, because they need CDI 0.7.0 and older runtimes would
then refuse the whole file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from deviceplugin.cdi import (
    ContainerEdits,
    Device,
    DeviceNode,
    Hook,
    Mount,
    Spec,
    device_name_for,
)
from deviceplugin.vendor import PhysicalDevice, Snapshot
from deviceplugin.vendors.nvidia import driverfiles, facts
from deviceplugin.vendors.nvidia.driverfiles import DriverFiles
from deviceplugin.vendors.nvidia.edits import node_of
from deviceplugin.vendors.nvidia.exposure import CDI_VENDOR, GPU_CLASS, IMEX_CLASS, extras
from deviceplugin.vendors.nvidia.host import CAPABILITY, CONTROL_NODES, Host, below, joined
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

MANAGEMENT_CLASS = "management"
ALL = "all"
_MOUNT_OPTIONS = ("ro", "nosuid", "nodev", "rbind", "rprivate")
_SOCKET_OPTIONS = ("nosuid", "nodev", "rbind", "rprivate", "noexec")
_NOT_MANAGEMENT = ("/dev/nvidia-fs", "/dev/nvidia-nvswitch", "/dev/nvidia-nvlink")
_EXTRA_NODES = {
    "gdrcopy": ("/dev/gdrdrv",),
    "gds": ("/dev/nvidia-fs*",),
    "mofed": ("/dev/infiniband/uverbs*", "/dev/infiniband/rdma_cm"),
}
_EXTRA_MOUNTS = {"gds": ("/run/udev", "/etc/cufile.json")}


def specs(snapshot: Snapshot, settings: NvidiaSettings, host: Host) -> tuple[Spec, ...]:
    """The specifications of all classes that have something to give."""
    files = driverfiles.find(host.driver, snapshot.attributes.get(facts.DRIVER_VERSION, ""))
    found = (
        gpus(f"{CDI_VENDOR}/{GPU_CLASS}", snapshot.devices, files, settings, host),
        management(f"{CDI_VENDOR}/{MANAGEMENT_CLASS}", files, settings, host),
        *beside_gpus(settings, host),
    )
    return tuple(spec for spec in found if spec is not None)


def beside_gpus(settings: NvidiaSettings, host: Host) -> tuple[Spec, ...]:
    """The specifications that do not depend on GPUs: IMEX channels, GDRCopy, GDS, MOFED."""
    found = (
        imex(f"{CDI_VENDOR}/{IMEX_CLASS}", settings, host),
        *(extra(f"{CDI_VENDOR}/{name}", name, host) for name in extras(settings)),
    )
    return tuple(spec for spec in found if spec is not None)


# --- GPUs --------------------------------------------------------------------------------------


def gpus(
    kind: str,
    devices: Sequence[PhysicalDevice],
    files: DriverFiles,
    settings: NvidiaSettings,
    host: Host,
) -> Spec | None:
    """Every device that may be offered by uuid or index, and ``all``; None without any."""
    by_name: dict[str, ContainerEdits] = {}
    for device in devices:
        divided = settings.dynamic_mig or settings.mig_strategy != "none"
        if facts.has_mig_enabled(device) and divided:
            continue
        edits = _device_edits(device, settings, host)
        identity = device.index if settings.by_index else device.uuid
        if edits and identity not in ("", ALL):
            by_name[device_name_for(identity)] = edits
    if not by_name:
        return None
    listed = [Device(name, edits) for name, edits in by_name.items()]
    every = Device(ALL, _union(by_name.values()))
    return Spec(kind, (*listed, every), _common(files, _control(host), settings, host))


def _device_edits(device: PhysicalDevice, settings: NvidiaSettings, host: Host) -> ContainerEdits:
    nodes = [node_of(path, host.dev_root, permissions="") for path in device.device_nodes]
    own = [node for node in nodes if node.path not in CONTROL_NODES]
    if device.parent_uuid:
        return ContainerEdits(device_nodes=tuple(_numbered(node, host) for node in own))
    bus_id = device.attributes.get(facts.BUS_ID, "")
    graphics = _graphics_nodes(bus_id, host) if bus_id else ()
    links = _graphics_links(bus_id, host) if graphics else ()
    return ContainerEdits(
        device_nodes=(*own, *(_node(path, host) for path in graphics)),
        hooks=tuple(_hooks((("create-symlinks", links),), settings)) if links else (),
    )


def _numbered(node: DeviceNode, host: Host) -> DeviceNode:
    """A capability's node by its numbers where the host lacks it, so that the runtime makes it: the
    nodes of an instance are only there once one of the driver's own programs has asked for it.
    """
    minor, major = node.path.removeprefix(CAPABILITY), host.major("nvidia-caps")
    if not minor.isdecimal() or major is None or host.has_node(node.path):
        return node
    return replace(node, type="c", major=major, minor=int(minor), file_mode=0o444)


def _graphics_nodes(bus_id: str, host: Host) -> tuple[str, ...]:
    """The card's nodes of the direct rendering manager, by what the kernel lists of it."""
    folder = host.root / "sys/bus/pci/devices" / bus_id / "drm"
    names = sorted(path.name for path in folder.glob("*"))
    paths = [f"/dev/dri/{name}" for name in names if name.startswith(("card", "renderD"))]
    return tuple(path for path in paths if host.has_node(path))


def _graphics_links(bus_id: str, host: Host) -> tuple[str, ...]:
    folder = host.dev / "dev/dri/by-path"
    arguments: list[str] = []
    for suffix in ("card", "render"):
        link = folder / f"pci-{bus_id}-{suffix}"
        if link.is_symlink():
            path = below(str(host.dev), str(link))
            arguments += ["--link", f"{link.readlink()}::{path}"]
    return tuple(arguments)


def _union(all_edits: Iterable[ContainerEdits]) -> ContainerEdits:
    parts = list(all_edits)
    return ContainerEdits(
        device_nodes=tuple(dict.fromkeys(node for part in parts for node in part.device_nodes)),
        hooks=tuple(dict.fromkeys(hook for part in parts for hook in part.hooks)),
    )


# --- what all containers with GPUs need --------------------------------------------------------


def _control(host: Host) -> tuple[DeviceNode, ...]:
    return tuple(_node(path, host) for path in sorted(host.control_nodes()))


def _common(
    files: DriverFiles, nodes: tuple[DeviceNode, ...], settings: NvidiaSettings, host: Host
) -> ContainerEdits:
    env = [f"NVIDIA_CTK_LIBCUDA_DIR={files.libcuda_folder}"] if files.libcuda_folder else []
    folders = [word for folder in files.library_folders for word in ("--folder", folder)]
    links = [word for link in files.links for word in ("--link", link)]
    wanted = (
        ("create-symlinks", links),
        ("enable-cuda-compat", [f"--host-driver-version={files.version}"]),
        ("update-ldcache", folders),
        ("disable-device-node-modification", None),
        ("update-application-profile", None),
    )
    return ContainerEdits(
        # The legacy runtime reads this and then does nothing more.
        env=(*env, "NVIDIA_VISIBLE_DEVICES=void"),
        device_nodes=nodes,
        mounts=(
            *_mounts(files.mounts, _MOUNT_OPTIONS, host),
            *_mounts(files.sockets, _SOCKET_OPTIONS, host),
        ),
        hooks=tuple(_hooks(wanted, settings)) if files.libcuda_folder else (),
    )


def _mounts(paths: Iterable[str], options: tuple[str, ...], host: Host) -> Iterator[Mount]:
    for path in paths:
        yield Mount(joined(host.driver_root, path), path, options)


def _hooks(
    wanted: Iterable[tuple[str, Sequence[str] | None]], settings: NvidiaSettings
) -> Iterator[Hook]:
    """Calls of NVIDIA's program; one whose arguments are an empty list has nothing to do."""
    path = settings.cdi_hook_path
    start = (
        ("nvidia-ctk", "hook") if posixpath.basename(path) == "nvidia-ctk" else ("nvidia-cdi-hook",)
    )
    for name, arguments in wanted:
        disabled = name in settings.disabled_hooks or ALL in settings.disabled_hooks
        if not disabled and (arguments is None or arguments):
            yield Hook(
                "createContainer",
                path,
                args=(*start, name, *(arguments or ())),
                env=("NVIDIA_CTK_DEBUG=false",),
            )


# --- the other classes -------------------------------------------------------------------------


def management(kind: str, files: DriverFiles, settings: NvidiaSettings, host: Host) -> Spec | None:
    """All of the driver's nodes for those who look after the node; None without any."""
    nodes = [*host.nodes("/dev/nvidia*"), *host.nodes("/dev/nvidia-caps/nvidia-cap*")]
    chosen = [path for path in nodes if _is_node(path, host)]
    if not chosen:
        return None
    edits = ContainerEdits(device_nodes=tuple(_node(path, host) for path in chosen))
    return Spec(kind, (Device(ALL, edits),), _common(files, (), settings, host))


def _is_node(path: str, host: Host) -> bool:
    return not path.startswith(_NOT_MANAGEMENT) and not (host.dev / path.lstrip("/")).is_dir()


def imex(kind: str, settings: NvidiaSettings, host: Host) -> Spec | None:
    """The existing IMEX channels of the operator, by number; None without any."""
    devices = [
        Device(str(channel), ContainerEdits(device_nodes=(_node(_channel(channel), host),)))
        for channel in settings.imex_channels
        if host.has_node(_channel(channel))
    ]
    return Spec(kind, tuple(devices)) if devices else None


def imex_impediment(settings: NvidiaSettings, host: Host) -> str:
    """Which IMEX channel is missing although the operator requires it; empty when none is."""
    for channel in settings.imex_channels if settings.imex_required else ():
        if not host.has_node(_channel(channel)):
            return (
                f"IMEX channel {channel} is required, but {host.node(_channel(channel))} is "
                "missing: create it (nvidia-modprobe), or unset imex.required"
            )
    return ""


def _channel(number: int) -> str:
    return f"/dev/nvidia-caps-imex-channels/channel{number}"


def extra(kind: str, name: str, host: Host) -> Spec | None:
    """One of GDRCopy, GDS and MOFED; None where its nodes are missing."""
    paths = [path for pattern in _EXTRA_NODES[name] for path in host.nodes(pattern)]
    if not paths:
        return None
    found = [path for path in _EXTRA_MOUNTS.get(name, ()) if _exists(host, path)]
    edits = ContainerEdits(
        device_nodes=tuple(_node(path, host) for path in paths),
        mounts=tuple(_mounts(found, _MOUNT_OPTIONS, host)),
    )
    return Spec(kind, (Device(ALL, edits),))


def _exists(host: Host, path: str) -> bool:
    return (host.driver / path.lstrip("/")).exists()


def _node(path: str, host: Host) -> DeviceNode:
    return node_of(host.node(path), host.dev_root, permissions="")
