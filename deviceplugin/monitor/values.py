"""What the monitor is told, and how it is set. No vendor and no cluster in it."""

from __future__ import annotations

from dataclasses import dataclass

from deviceplugin.series import Names
from deviceplugin.version import __version__


@dataclass(frozen=True, slots=True)
class MonitoredDevice:
    """One device of a container's grant.

    `index` is its number in the container, from 0, as its limit is numbered
    (``CUDA_DEVICE_MEMORY_LIMIT_<index>``). None limits nothing. `instance` names the hardware
    partition, where the device is one (NVIDIA: the GPU instance's id).
    """

    index: int
    uuid: str
    memory_mib: int | None = None
    cores_percent: int | None = None
    instance: str = ""


@dataclass(frozen=True, slots=True)
class MonitoredContainer:
    """A container that holds devices on this node.

    `cache_dir` is the name of its directory below the monitor's root: ``<pod uid>_<container>``, or
    an allocation's id; empty where its vendor keeps no regions. `priority` is the one the pod asks
    for, 0 before 1; None takes the region's own word. `cooperative` says that its own processes
    keep its limits, so that no region is to be expected.
    """

    namespace: str
    pod: str
    pod_uid: str
    container: str
    cache_dir: str
    devices: tuple[MonitoredDevice, ...]
    priority: int | None = None
    cooperative: bool = False


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A physical device, or a hardware partition of one, as its driver sees it; None where the
    driver does not say.

    `type` is the vendor's word with the model, ``NVIDIA-NVIDIA A100-SXM4-80GB`` with HAMi.
    """

    uuid: str
    index: str
    type: str
    used_mib: float | None = None
    utilisation_percent: float | None = None
    memory_total_mib: float | None = None
    memory_controller_percent: float | None = None
    partition: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """`legacy_labels` puts byte counts into labels as HAMi does, which makes a new series at every
    change. Without `feedback` priorities do nothing and limits of cores always hold; with it,
    there is a step every `feedback_seconds`. `grace_seconds` is how long a directory outlives its
    pod. The rest is told in ``hami_build_info``.
    """

    names: Names = Names.V2_8
    legacy_labels: bool = False
    feedback: bool = True
    feedback_seconds: float = 5.0
    grace_seconds: float = 300.0
    version: str = __version__
    revision: str = ""
    build_date: str = ""
