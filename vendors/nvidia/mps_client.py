"""MPS as seen from a container that shares a device: where the daemon's files are, whether it is
up, and what the container needs to reach it.

Source: kubelet-deviceplugin.md 4.6. Inside containers everything is below ``/mps``, on the host
below the operator's ``mpsRoot``.
"""

from __future__ import annotations

from pathlib import Path

from deviceplugin.vendor import ContainerEdits, Mount
from deviceplugin.vendors.nvidia.host import joined
from deviceplugin.vendors.nvidia.settings import NvidiaSettings

CONTAINER_ROOT = "/mps"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
READY, STARTED = ".ready", ".started"
_OPTIONS = ("rw", "nosuid", "nodev", "rbind", "rprivate")


def edits(resource: str, settings: NvidiaSettings) -> ContainerEdits:
    """What makes a container's CUDA a client of the resource's daemon."""
    pipe = f"{CONTAINER_ROOT}/{resource}/pipe"
    return ContainerEdits(
        env={PIPE_VARIABLE: pipe},
        mounts=(
            Mount(f"{settings.mps_root}/{resource}/pipe", pipe, _OPTIONS),
            Mount(f"{settings.mps_root}/shm", "/dev/shm", _OPTIONS),  # noqa: S108
        ),
    )


def impediment(resource: str, settings: NvidiaSettings) -> str:
    """Why there is no daemon to share by; empty when it is up."""
    if not settings.mps_root:
        return f"MPS shares {resource}, but mpsRoot is not set (--mps-root, MPS_ROOT)"
    root = Path(joined(settings.host_root, settings.mps_root))
    for path in (root / READY, root / resource / STARTED, root / resource / "pipe"):
        if not path.exists():
            place = joined(settings.mps_root, str(path.relative_to(root)))
            return (
                f"the MPS daemon of {resource} is not ready: {place} is missing on the node; "
                "run `deviceplugin mps` there and look at its log"
            )
    return ""
