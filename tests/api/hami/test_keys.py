"""The keys, literally: a key with a slip in it is a cluster where nobody hears anybody."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import pytest

from deviceplugin.api.hami import keys
from deviceplugin.api.hami.keys import VENDORS, Registration, VendorKeys, ascend, iluvatar

TABLE = {
    # common word: register, handshake, to allocate, allocated
    "NVIDIA": ("hami.io/node-nvidia-register", "hami.io/node-handshake", "hami.io/vgpu-devices-to-allocate", "hami.io/vgpu-devices-allocated"),
    "DCU": ("hami.io/node-dcu-register", "hami.io/node-handshake-dcu", "hami.io/dcu-devices-to-allocate", "hami.io/dcu-devices-allocated"),
    "Ascend910B4-1": ("hami.io/node-register-Ascend910B4-1", "hami.io/node-handshake-Ascend910B4-1", "hami.io/Ascend910B4-1-devices-to-allocate", "hami.io/Ascend910B4-1-devices-allocated"),
    "Ascend310P": ("hami.io/node-register-Ascend310P", "hami.io/node-handshake-Ascend310P", "hami.io/Ascend310P-devices-to-allocate", "hami.io/Ascend310P-devices-allocated"),
    "BI-V150": ("hami.io/node-BI-V150-register", "hami.io/node-handshake-BI-V150", "hami.io/BI-V150-devices-to-allocate", "hami.io/BI-V150-devices-allocated"),
    "XPU": ("hami.io/node-register-xpu", "hami.io/node-handshake-xpu", "hami.io/xpu-devices-to-allocate", "hami.io/xpu-devices-allocated"),
    "kunlun": (None, None, None, "hami.io/kunlun-allocated"),
    "Metax-SGPU": ("metax-tech.com/node-gpu-devices", None, "hami.io/metax-sgpu-devices-to-allocate", "hami.io/metax-sgpu-devices-allocated"),
    "Metax-GPU": (None, None, "hami.io/metax-gpu-devices-to-allocate", "hami.io/metax-gpu-devices-allocated"),
    "MLU": (None, None, "hami.io/cambricon-mlu-devices-to-allocate", "hami.io/cambricon-mlu-devices-allocated"),
    "Mthreads": (None, None, "hami.io/mthreads-vgpu-devices-to-allocate", "hami.io/mthreads-vgpu-devices-allocated"),
    "Enflame": (None, None, None, "hami.io/enflame-vgpu-devices-allocated"),
    "GCU": (None, None, "hami.io/enflame-gcu-devices-to-allocate", "hami.io/enflame-gcu-devices-allocated"),
    "AWSNeuron": (None, None, None, "hami.io/aws-neuron-devices-allocated"),
    "AMDGPU": (None, None, None, "hami.io/amd-devices-allocated"),
}  # fmt: skip

SELECTORS = {
    # common word: use these uuids, avoid these uuids
    "NVIDIA": ("nvidia.com/use-gpuuuid", "nvidia.com/nouse-gpuuuid"),
    "Ascend910A": ("hami.io/use-Ascend910A-uuid", "hami.io/no-use-Ascend910A-uuid"),
    "MR-V50": ("hami.io/use-MR-V50-uuid", "hami.io/no-use-MR-V50-uuid"),
    "XPU": ("hami.io/use-xpu-uuid", "hami.io/no-use-xpu-uuid"),
    "kunlun": ("baidu.com/use-gpuuuid", "baidu.com/nouse-gpuuuid"),
    "DCU": ("hygon.com/use-gpuuuid", "hygon.com/nouse-gpuuuid"),
    "Metax-SGPU": ("metax-tech.com/use-gpuuuid", "metax-tech.com/nouse-gpuuuid"),
    "MLU": ("cambricon.com/use-gpuuuid", "cambricon.com/nouse-gpuuuid"),
    "Mthreads": ("mthreads.ai/use-gpuuuid", "mthreads.ai/nouse-gpuuuid"),
    "Enflame": ("enflame.com/use-gpuuuid", "enflame.com/nouse-gpuuuid"),
    "AWSNeuron": ("aws.amazon.com/use-neuron-uuid", "aws.amazon.com/nouse-neuron-uuid"),
    "AMDGPU": ("amd.com/use-gpu-uuid", "amd.com/nouse-gpu-uuid"),
}


@pytest.mark.parametrize("word", TABLE)
def test_each_vendor_has_the_keys_that_its_peers_use(word: str) -> None:
    vendor = VENDORS[word]
    assert (vendor.register, vendor.handshake, vendor.to_allocate, vendor.allocated) == TABLE[word]


@pytest.mark.parametrize("word", SELECTORS)
def test_each_vendor_has_the_selectors_that_people_write(word: str) -> None:
    assert (VENDORS[word].use_uuid, VENDORS[word].avoid_uuid) == SELECTORS[word]


WISHES = {
    # common word: what else people write on pods
    "NVIDIA": ("nvidia.com/numa-bind", "nvidia.com/vgpu-mode"),
    "Ascend310P": ("huawei.com/vnpu-mode",),
    "Metax-SGPU": (
        "metax-tech.com/sgpu-qos-policy",
        "metax-tech.com/sgpu-app-class",
        "metax-tech.com/sgpu-topology-aware",
    ),
    "DCU": (),
}


@pytest.mark.parametrize("word", WISHES)
def test_what_people_and_nodes_say_is_named_whole(word: str) -> None:
    vendor = VENDORS[word]
    assert vendor.wishes == WISHES[word]
    selectors = {vendor.use_uuid, vendor.avoid_uuid, vendor.use_type, vendor.avoid_type} - {None}
    assert set(vendor.by_people) == selectors | set(vendor.wishes)
    told = {vendor.register, vendor.score, vendor.handshake, vendor.lock} - {None}
    assert set(vendor.on_nodes) == told | set(vendor.node_others)
    assert set(vendor.results) == {vendor.allocated, vendor.to_allocate, *vendor.others} - {None}


def test_the_keys_of_nobody_in_particular() -> None:
    assert keys.VGPU_NODE == "hami.io/vgpu-node"
    assert keys.VGPU_TIME == "hami.io/vgpu-time"
    assert keys.BIND_PHASE == "hami.io/bind-phase"
    assert keys.BIND_TIME == "hami.io/bind-time"
    assert keys.MUTEX_LOCK == "hami.io/mutex.lock"
    assert keys.NODE_POLICY == "hami.io/node-scheduler-policy"
    assert keys.DEVICE_POLICY == "hami.io/gpu-scheduler-policy"
    assert keys.NUMA_BIND == "nvidia.com/numa-bind"
    assert keys.VGPU_MODE == "nvidia.com/vgpu-mode"
    assert keys.WEBHOOK == "hami.io/webhook"
    assert VENDORS["NVIDIA"].score == "hami.io/node-nvidia-score"


def test_all_who_lock_share_one_key_but_cambricon() -> None:
    locks = {word: vendor.lock for word, vendor in VENDORS.items() if vendor.lock}
    assert locks.pop("MLU") == "cambricon.com/dsmlu.lock"
    assert set(locks.values()) == {"hami.io/mutex.lock"}
    assert {"NVIDIA", "DCU", "XPU", "Metax-SGPU", "Ascend910A", "MR-V100"} <= set(locks)


def test_who_registers_has_a_key_for_it() -> None:
    for vendor in VENDORS.values():
        writes = vendor.registration is not Registration.CAPACITY
        assert writes == (vendor.register is not None), vendor


def test_a_cluster_may_configure_other_chips() -> None:
    assert ascend("Ascend910B4") == VENDORS["Ascend910B4"]
    assert iluvatar("BI-V100") == VENDORS["BI-V100"]
    assert ascend("Ascend910ProB").others == ("predicate-time", "huawei.com/Ascend910ProB")


def test_every_key_is_one_that_kubernetes_accepts() -> None:
    name = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
    for key in _all_keys():
        assert name.fullmatch(key), key


def test_no_vendor_reads_what_another_writes() -> None:
    own = ("register", "score", "handshake", "to_allocate", "allocated")
    counts = Counter(
        getattr(vendor, each)
        for vendor in VENDORS.values()
        for each in own
        if getattr(vendor, each)
    )
    assert counts.most_common(1)[0][1] == 1


def _all_keys() -> set[str]:
    found: set[str] = set()
    for vendor in VENDORS.values():
        for each in dataclasses.fields(VendorKeys):
            value = getattr(vendor, each.name)
            if each.name == "others":
                found.update(value)
            elif isinstance(value, str) and each.name != "common_word":
                found.add(value)
    return found
