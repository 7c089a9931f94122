"""The annotations' keys (hami-nvidia-node.md 2.1, hami-scheduler.md 3.3), none of them ours."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

__all__ = [
    "BIND_PHASE",
    "BIND_TIME",
    "DEVICE_POLICY",
    "MUTEX_LOCK",
    "NODE_POLICY",
    "NUMA_BIND",
    "NVIDIA_REGISTER",
    "NVIDIA_SCORE",
    "VENDORS",
    "VGPU_MODE",
    "VGPU_NODE",
    "VGPU_TIME",
    "WEBHOOK",
    "Registration",
    "VendorKeys",
    "ascend",
    "iluvatar",
]

# On pods, written by the scheduler.
VGPU_NODE: Final = "hami.io/vgpu-node"
"""The chosen node; also a label of the same value."""
VGPU_TIME: Final = "hami.io/vgpu-time"
BIND_PHASE: Final = "hami.io/bind-phase"
"""Goes on with the node's agent."""
BIND_TIME: Final = "hami.io/bind-time"

# On pods, written by people.
NODE_POLICY: Final = "hami.io/node-scheduler-policy"
DEVICE_POLICY: Final = "hami.io/gpu-scheduler-policy"
NUMA_BIND: Final = "nvidia.com/numa-bind"
VGPU_MODE: Final = "nvidia.com/vgpu-mode"
WEBHOOK: Final = "hami.io/webhook"
"""A label of pods and namespaces: ``ignore``."""

# On nodes.
MUTEX_LOCK: Final = "hami.io/mutex.lock"
"""One key for all vendors: a node binds one pod at a time."""

NVIDIA_REGISTER: Final = "hami.io/node-nvidia-register"
NVIDIA_SCORE: Final = "hami.io/node-nvidia-score"


class Registration(enum.Enum):
    """How the scheduler learns of a node's devices."""

    JSON = "json"
    """The list that `register.encode` writes."""
    LEGACY = "legacy"
    """The text that `register.encode_legacy` writes."""
    VENDOR = "vendor"
    """The vendor's own plugin writes the vendor's own form."""
    CAPACITY = "capacity"
    """Counted off the node's capacity; nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorKeys:
    """One vendor's keys; None where it has none.

    `common_word` is its name wherever there is no key: the type of a request and of a pod's
    devices, exactly so written. On the node: `register`, `score`, `handshake` and `lock`. On the
    pod, by the scheduler: `to_allocate`, which the node's agent empties container by container,
    `allocated`, which stays, and `others` of the vendor's own. `node_others` are the vendor's own
    on the node. On the pod, by people: `use_uuid`,
    `avoid_uuid`, `use_type` and `avoid_type`, and `wishes`, whatever else decisions go by.
    """

    common_word: str
    registration: Registration
    allocated: str
    to_allocate: str | None = None
    register: str | None = None
    score: str | None = None
    handshake: str | None = None
    lock: str | None = None
    others: tuple[str, ...] = ()
    node_others: tuple[str, ...] = ()
    use_uuid: str | None = None
    avoid_uuid: str | None = None
    use_type: str | None = None
    avoid_type: str | None = None
    wishes: tuple[str, ...] = ()

    @property
    def by_people(self) -> tuple[str, ...]:
        """What people write on pods, and decisions go by."""
        selectors = (self.use_uuid, self.avoid_uuid, self.use_type, self.avoid_type)
        return (*filter(None, selectors), *self.wishes)

    @property
    def on_nodes(self) -> tuple[str, ...]:
        """What stands on nodes."""
        return (
            *filter(None, (self.register, self.score, self.handshake, self.lock)),
            *self.node_others,
        )

    @property
    def results(self) -> tuple[str, ...]:
        """What was decided about a pod."""
        return (self.allocated, *filter(None, (self.to_allocate,)), *self.others)


@cache
def ascend(word: str) -> VendorKeys:
    """The keys of one of Ascend's chips, ``Ascend910B4`` for example (ascend-and-mock.md A.3.2)."""
    return VendorKeys(
        common_word=word,
        registration=Registration.JSON,
        register=f"hami.io/node-register-{word}",
        handshake=f"hami.io/node-handshake-{word}",
        lock=MUTEX_LOCK,
        to_allocate=f"hami.io/{word}-devices-to-allocate",
        allocated=f"hami.io/{word}-devices-allocated",
        others=("predicate-time", f"huawei.com/{word}"),
        node_others=("hami-vnpu-core",),
        use_uuid=f"hami.io/use-{word}-uuid",
        avoid_uuid=f"hami.io/no-use-{word}-uuid",
        wishes=("huawei.com/vnpu-mode",),
    )


@cache
def iluvatar(word: str) -> VendorKeys:
    """The keys of one of Iluvatar's chips, ``MR-V100`` for example
    (metax-iluvatar-kunlunxin-hygon.md 0.1, 2.1).
    """
    return VendorKeys(
        common_word=word,
        registration=Registration.LEGACY,
        register=f"hami.io/node-{word}-register",
        handshake=f"hami.io/node-handshake-{word}",
        lock=MUTEX_LOCK,
        to_allocate=f"hami.io/{word}-devices-to-allocate",
        allocated=f"hami.io/{word}-devices-allocated",
        use_uuid=f"hami.io/use-{word}-uuid",
        avoid_uuid=f"hami.io/no-use-{word}-uuid",
    )


_NVIDIA = VendorKeys(
    common_word="NVIDIA",
    registration=Registration.JSON,
    register=NVIDIA_REGISTER,
    score=NVIDIA_SCORE,
    handshake="hami.io/node-handshake",
    lock=MUTEX_LOCK,
    to_allocate="hami.io/vgpu-devices-to-allocate",
    allocated="hami.io/vgpu-devices-allocated",
    use_uuid="nvidia.com/use-gpuuuid",
    avoid_uuid="nvidia.com/nouse-gpuuuid",
    use_type="nvidia.com/use-gputype",
    avoid_type="nvidia.com/nouse-gputype",
    wishes=(NUMA_BIND, VGPU_MODE),
)
_HYGON = VendorKeys(
    common_word="DCU",
    registration=Registration.LEGACY,
    register="hami.io/node-dcu-register",
    handshake="hami.io/node-handshake-dcu",
    lock=MUTEX_LOCK,
    to_allocate="hami.io/dcu-devices-to-allocate",
    allocated="hami.io/dcu-devices-allocated",
    use_uuid="hygon.com/use-gpuuuid",
    avoid_uuid="hygon.com/nouse-gpuuuid",
    use_type="hygon.com/use-dcutype",
    avoid_type="hygon.com/nouse-dcutype",
)
_KUNLUN = VendorKeys(
    common_word="kunlun",
    registration=Registration.CAPACITY,
    allocated="hami.io/kunlun-allocated",
    others=("BAIDU_COM_DEVICE_IDX",),
    use_uuid="baidu.com/use-gpuuuid",
    avoid_uuid="baidu.com/nouse-gpuuuid",
    wishes=("hami.io/use-xpu-uuid", "hami.io/no-use-xpu-uuid"),
)
_XPU = VendorKeys(
    common_word="XPU",
    registration=Registration.JSON,
    register="hami.io/node-register-xpu",
    handshake="hami.io/node-handshake-xpu",
    lock=MUTEX_LOCK,
    to_allocate="hami.io/xpu-devices-to-allocate",
    allocated="hami.io/xpu-devices-allocated",
    use_uuid="hami.io/use-xpu-uuid",
    avoid_uuid="hami.io/no-use-xpu-uuid",
    wishes=("baidu.com/use-gpuuuid", "baidu.com/nouse-gpuuuid"),
)
_METAX_GPU = VendorKeys(
    common_word="Metax-GPU",
    registration=Registration.CAPACITY,
    to_allocate="hami.io/metax-gpu-devices-to-allocate",
    allocated="hami.io/metax-gpu-devices-allocated",
    node_others=("metax-tech.com/gpu.topology.losses", "metax-tech.com/gpu.topology.scores"),
)
_METAX_SGPU = VendorKeys(
    common_word="Metax-SGPU",
    registration=Registration.VENDOR,
    register="metax-tech.com/node-gpu-devices",
    lock=MUTEX_LOCK,
    to_allocate="hami.io/metax-sgpu-devices-to-allocate",
    allocated="hami.io/metax-sgpu-devices-allocated",
    others=("metax-tech.com/gpu-devices-allocated", "metax-tech.com/predicate-time"),
    use_uuid="metax-tech.com/use-gpuuuid",
    avoid_uuid="metax-tech.com/nouse-gpuuuid",
    wishes=(
        "metax-tech.com/sgpu-qos-policy",
        "metax-tech.com/sgpu-app-class",
        "metax-tech.com/sgpu-topology-aware",
    ),
)
_CAMBRICON = VendorKeys(
    common_word="MLU",
    registration=Registration.CAPACITY,
    lock="cambricon.com/dsmlu.lock",
    to_allocate="hami.io/cambricon-mlu-devices-to-allocate",
    allocated="hami.io/cambricon-mlu-devices-allocated",
    others=("CAMBRICON_DSMLU_ASSIGNED", "CAMBRICON_DSMLU_PROFILE"),
    use_uuid="cambricon.com/use-gpuuuid",
    avoid_uuid="cambricon.com/nouse-gpuuuid",
    use_type="cambricon.com/use-mlutype",
    avoid_type="cambricon.com/nouse-mlutype",
)
_MTHREADS = VendorKeys(
    common_word="Mthreads",
    registration=Registration.CAPACITY,
    to_allocate="hami.io/mthreads-vgpu-devices-to-allocate",
    allocated="hami.io/mthreads-vgpu-devices-allocated",
    others=("mthreads.com/gpu-index", "mthreads.com/predicate-time", "mthreads.com/predicate-node"),
    use_uuid="mthreads.ai/use-gpuuuid",
    avoid_uuid="mthreads.ai/nouse-gpuuuid",
)
_ENFLAME = VendorKeys(
    common_word="Enflame",
    registration=Registration.CAPACITY,
    allocated="hami.io/enflame-vgpu-devices-allocated",
    others=(
        "enflame.com/gcu-assigned",
        "enflame.com/gcu-assigned-time",
        "enflame.com/gcu-assigned-id",
    ),
    use_uuid="enflame.com/use-gpuuuid",
    avoid_uuid="enflame.com/nouse-gpuuuid",
)
_GCU = VendorKeys(
    common_word="GCU",
    registration=Registration.CAPACITY,
    to_allocate="hami.io/enflame-gcu-devices-to-allocate",
    allocated="hami.io/enflame-gcu-devices-allocated",
    use_uuid="enflame.com/use-gpuuuid",
    avoid_uuid="enflame.com/nouse-gpuuuid",
)
_NEURON = VendorKeys(
    common_word="AWSNeuron",
    registration=Registration.CAPACITY,
    allocated="hami.io/aws-neuron-devices-allocated",
    others=(
        "AWS_NEURON_IDS",
        "NEURON_ALLOC_TIME",
        "NEURON_ALLOCATED",
        "NEURON_RESOURCE_TYPE",
        "aws.amazon.com/predicate-node",
    ),
    use_uuid="aws.amazon.com/use-neuron-uuid",
    avoid_uuid="aws.amazon.com/nouse-neuron-uuid",
)
_AMD = VendorKeys(
    common_word="AMDGPU",
    registration=Registration.CAPACITY,
    allocated="hami.io/amd-devices-allocated",
    use_uuid="amd.com/use-gpu-uuid",
    avoid_uuid="amd.com/nouse-gpu-uuid",
)

VENDORS: Mapping[str, VendorKeys] = MappingProxyType(
    {
        keys.common_word: keys
        for keys in (
            _NVIDIA,
            *map(
                ascend,
                (
                    "Ascend910A",
                    "Ascend910B2",
                    "Ascend910B3",
                    "Ascend910B4",
                    "Ascend910B4-1",
                    "Ascend910C",
                    "Ascend310P",
                ),
            ),
            _METAX_GPU,
            _METAX_SGPU,
            *map(iluvatar, ("MR-V100", "MR-V50", "BI-V150", "BI-V100")),
            _KUNLUN,
            _XPU,
            _HYGON,
            _CAMBRICON,
            _MTHREADS,
            _ENFLAME,
            _GCU,
            _NEURON,
            _AMD,
        )
    }
)
"""By common word. A cluster's configuration may add chips: see `ascend` and `iluvatar`."""
