"""Which devices an answer to Allocate hands over, whoever gave it."""

from __future__ import annotations

import pytest

from deviceplugin.allocation.handed import handed
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.vendor import AnswerReader, PhysicalDevice
from deviceplugin.vendors.ascend.node import AscendNode
from deviceplugin.vendors.kunlunxin.node import KunlunxinNode

CARDS = [
    PhysicalDevice(
        uuid,
        str(index),
        "M",
        device_nodes=("/dev/all", f"/dev/card{index}"),
        attributes={"physicalId": str(index + 4)},
    )
    for index, uuid in enumerate(("GPU-1", "GPU-10", "GPU-2"))
]


def answer(env: dict[str, str] | None = None, *nodes: str) -> pb.ContainerAllocateResponse:
    specs = [pb.DeviceSpec(container_path="/dev/x", host_path=node) for node in nodes]
    return pb.ContainerAllocateResponse(envs=env, devices=specs)


@pytest.mark.parametrize(
    ("text", "uuids"),
    [
        ("GPU-10", {"GPU-10"}),
        ("GPU-1", {"GPU-1"}),
        ("GPU-10,GPU-1", {"GPU-1", "GPU-10"}),
        ("0,1", set()),
    ],
)
def test_uuids_are_found_as_a_whole(text: str, uuids: set[str]) -> None:
    assert handed(answer({"VISIBLE": text}), CARDS) == uuids


def test_device_nodes_tell_where_they_are_one_cards_own() -> None:
    assert handed(answer(None, "/dev/all", "/dev/card1"), CARDS) == {"GPU-10"}
    assert handed(answer(None, "/dev/all"), CARDS) == frozenset()


ASCEND, KUNLUNXIN = (one.__new__(one) for one in (AscendNode, KunlunxinNode))
"""What they read does not depend on their settings."""


@pytest.mark.parametrize(
    ("vendor", "env", "uuids"),
    [
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "5"}, {"GPU-10"}),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "6,4"}, {"GPU-1", "GPU-2"}),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "4-6"}, {"GPU-1", "GPU-10", "GPU-2"}),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "Ascend910-5,npu-4"}, {"GPU-1", "GPU-10"}),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "4,7"}, set()),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "4-9999"}, set()),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "all"}, set()),
        (ASCEND, {"ASCEND_VISIBLE_DEVICES": "4", "ASCEND_RUNTIME_OPTIONS": "VIRTUAL"}, set()),
        (KUNLUNXIN, {"CXPU_VISIBLE_DEVICES": "0,2"}, {"GPU-1", "GPU-2"}),
        (KUNLUNXIN, {"CXPU_VISIBLE_DEVICES": "1,9"}, set()),
        (KUNLUNXIN, {"CXPU_VISIBLE_DEVICES": "all"}, set()),
    ],
)
def test_numbers_tell_where_the_vendor_understands_them(
    vendor: AnswerReader, env: dict[str, str], uuids: set[str]
) -> None:
    """Nothing at all where one of them is of another card: then it is not just its own."""
    assert handed(answer(env, "/dev/card0"), CARDS, vendor) == uuids


def test_an_answer_without_the_vendors_variable_is_read_as_any_other() -> None:
    for vendor in (ASCEND, KUNLUNXIN):
        assert handed(answer({}, "/dev/card2"), CARDS, vendor) == {"GPU-2"}
