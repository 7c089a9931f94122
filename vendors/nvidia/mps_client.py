"""MPS as seen from a container that shares a device: where the daemon's files are, whether it is
up, and what the container needs to reach it and to keep to its own grant.

Source: kubelet-deviceplugin.md 4.6. Inside containers everything is below ``/mps``, on the host
below the operator's ``mpsRoot``. The limits are kept by CUDA in the container's own processes, each
of which has the whole of them: they hold as long as the processes co-operate.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from deviceplugin.vendor import ContainerEdits, Grant, Mount, Owner
from deviceplugin.vendors.nvidia import limits
from deviceplugin.vendors.nvidia.host import joined
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

CONTAINER_ROOT = "/mps"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
MEMORY_VARIABLE = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
THREADS_VARIABLE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
LIMIT_VARIABLES = ("CUDA_MPS_",)
AS_THE_DRIVER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Makes CUDA number devices in the driver's order and not by speed; limits are numbered so."""
NUMBERING_VARIABLES = (*AS_THE_DRIVER, "CUDA_VISIBLE_DEVICES")
READY, STARTED, CONTROL_SOCKET = ".ready", ".started", "pipe/control"
_OPTIONS = ("rw", "nosuid", "nodev", "rbind", "rprivate")


def edits(grants: Sequence[Grant], owner: Owner, settings: NvidiaSettings) -> ContainerEdits:
    """What makes a container's CUDA a client of the resource's daemon; in operating mode mps also
    its own limits, while replicas of ``sharing`` go by the daemon's.

    Raises `ValueError` where a limit cannot be expressed or the container would undo it.
    """
    resource = owner.resource
    pipe = f"{CONTAINER_ROOT}/{resource}/pipe"
    own = _limits(grants, owner, settings) if settings.mps else {}
    return ContainerEdits(
        env={PIPE_VARIABLE: pipe, **own},
        mounts=(
            Mount(f"{settings.mps_root}/{resource}/pipe", pipe, _OPTIONS),
            Mount(f"{settings.mps_root}/shm", "/dev/shm", _OPTIONS),  # noqa: S108
        ),
    )


def _limits(grants: Sequence[Grant], owner: Owner, settings: NvidiaSettings) -> Mapping[str, str]:
    """Memory of each device by its number in the container, and one percentage for all devices:
    MPS knows no other, so the smallest counts. No percentage, as 100, limits nothing.
    """
    several = len(grants) > 1
    limits.check_variables(owner, LIMIT_VARIABLES + (NUMBERING_VARIABLES if several else ()))
    memory = ((position, limits.memory(grant)) for position, grant in enumerate(grants))
    known = ",".join(f"{position}={mib}M" for position, mib in memory if mib)
    cores = min(grant.cores_percent or 100 for grant in grants)
    return {
        **({MEMORY_VARIABLE: known} if known else {}),
        THREADS_VARIABLE: str(100 if settings.section.disable_core_limit else min(cores, 100)),
        **(AS_THE_DRIVER if several else {}),
    }


def impediment(resource: str, settings: NvidiaSettings) -> str:
    """Why there is no daemon to share by; empty when it is up."""
    if not settings.mps_root:
        return f"MPS shares {resource}, but mpsRoot is not set (--mps-root, MPS_ROOT)"
    root = Path(joined(settings.host_root, settings.mps_root))
    control = root / resource / CONTROL_SOCKET
    for path in (root / READY, root / resource / STARTED, control):
        if not path.exists():
            return _not_ready(resource, root, path, settings, "is missing")
    if reason := _silence(control):
        return _not_ready(resource, root, control, settings, f"does not answer ({reason})")
    return ""


def _not_ready(resource: str, root: Path, path: Path, settings: NvidiaSettings, what: str) -> str:
    place = joined(settings.mps_root, str(path.relative_to(root)))
    return (
        f"the MPS daemon of {resource} is not ready: {place} {what} on the node; run "
        "`deviceplugin mps` there and look at its log"
    )


def _silence(control: Path) -> str:
    """Why nobody listens at the daemon's socket; empty while somebody does.

    Files outlive a daemon that was killed, the socket's listener does not. A datagram is not what
    the daemon speaks, so the kernel refuses it without a word to the daemon: as of the wrong type
    where there is a listener, as refused where there is none.
    """
    with contextlib.ExitStack() as closing:
        caller = closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        try:
            # A socket's address is short; where the host is mounted counts too in a plain path.
            folder = os.open(control.parent, os.O_PATH)
            closing.callback(os.close, folder)
            caller.connect(f"/proc/self/fd/{folder}/{control.name}")
        except OSError as error:
            return "" if error.errno == errno.EPROTOTYPE else str(error.strerror)
    return ""
