"""Left-over vNPUs go, and only those (A.11, E.1 no. 10, F.7). The driver is the fake library behind
the production binding, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.vendor import VendorSettings
from deviceplugin.vendors.ascend.idle import CHECKPOINT, GRACE_SECONDS, strangers
from deviceplugin.vendors.ascend.node import AscendNode

# Follows orders: `wait` so many seconds, `look` (a discovery) or `tidy` with these holders.
SCRIPT = """
import json, os, sys
from deviceplugin.vendor import DriverError, VendorSettings
from deviceplugin.vendors.ascend.idle import IdleVnpus
from deviceplugin.vendors.ascend.node import AscendNode

asked = json.load(sys.stdin)
now = [1000.0]
node = AscendNode(VendorSettings(host_root=asked["root"], section=asked["section"]))
node._idle = IdleVnpus(lambda: now[0])
answers = []
for order, value in asked["orders"]:
    if order == "wait":
        now[0] += value
    elif order == "look":
        node.discover()
    elif order == "make":
        open(os.environ["FAKE_DCMI_STATE"], "a").write(value)
    elif order == "state":
        open(os.environ["FAKE_DCMI_STATE"], "w").write(value)
    elif order == "fault":
        open(os.environ["FAKE_DCMI_SCENARIO"], "a").write(value)
    else:
        try:
            answers.append(list(node.tidy(value)))
        except DriverError as error:
            answers.append(str(error))
json.dump(answers, sys.stdout)
"""

ON = {"idleVnpuCleanup": True}
LOOK, WAIT = ("look", None), ("wait", GRACE_SECONDS)


def vnpu(number: int, identity: int, used: int = 0, name: str = "vir05_1c_8g") -> str:
    return f"{number} 0 {identity} {name} {used}\n"


def holder(*devices: str) -> dict[str, str]:
    return {"allocation": "a-1", "pod": "p", "devices": " ".join(devices)}


class Node:
    def __init__(self, root: Path, library: Path, scenario: str) -> None:
        self.root, self.state = root, root / "state"
        place = root / "usr/local/Ascend/driver/lib64/driver/libdcmi.so"
        place.parent.mkdir(parents=True)
        place.write_bytes(library.read_bytes())
        (root / "scenario").write_text(scenario)
        self.plugins("huawei.com/Ascend910B4", "nvidia.com/gpu")

    def plugins(self, *resources: str) -> None:
        """What kubelet's checkpoint says that plugins have registered."""
        path = self.root / CHECKPOINT
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"Data": {"RegisteredDevices": {name: [] for name in resources}}})
        )

    def follow(self, vnpus: str, *orders: Any, section: Any = None) -> list[list[str]]:
        self.state.write_text(vnpus)
        asked = {
            "root": str(self.root),
            "section": ON if section is None else section,
            "orders": orders,
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps(asked),
            env={
                **os.environ,
                "FAKE_DCMI_SCENARIO": str(self.root / "scenario"),
                "FAKE_DCMI_STATE": str(self.state),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        answers: list[list[str]] = json.loads(done.stdout)
        return answers

    @property
    def left(self) -> list[int]:
        return sorted(int(line.split()[2]) for line in self.state.read_text().splitlines())


@pytest.fixture
def node(tmp_path: Path, dcmi: Path, npus: Callable[..., str]) -> Node:
    return Node(tmp_path, dcmi, npus(2))


def test_what_nobody_holds_goes(node: Node, uuid: Callable[[int], str]) -> None:
    vnpus = vnpu(0, 212) + vnpu(0, 213, used=1) + vnpu(1, 196)
    (told,) = node.follow(vnpus, LOOK, WAIT, LOOK, ("tidy", []))
    assert told == [
        f"vNPU 212 (vir05_1c_8g) of {uuid(0)}, which no container holds",
        f"vNPU 196 (vir05_1c_8g) of {uuid(1)}, which no container holds",
    ]
    assert node.left == [213]


def test_a_card_of_which_a_container_holds_something_is_left_alone(
    node: Node, uuid: Callable[[int], str]
) -> None:
    """Its vNPU may be one that it has not opened yet: which, nobody can tell."""
    vnpus = vnpu(0, 212) + vnpu(0, 213) + vnpu(1, 196)
    node.follow(vnpus, LOOK, WAIT, LOOK, ("tidy", [holder(uuid(0))]))
    assert node.left == [212, 213]


def test_somebody_whose_devices_are_unknown_stops_everything(
    node: Node, uuid: Callable[[int], str]
) -> None:
    vnpus = vnpu(0, 212) + vnpu(1, 196)
    assert node.follow(vnpus, LOOK, WAIT, ("tidy", [holder(uuid(0)), holder()])) == [[]]
    assert node.left == [196, 212]


def test_what_was_made_just_now_is_left_alone(node: Node) -> None:
    orders = (LOOK, ("make", vnpu(0, 212)), LOOK, ("wait", GRACE_SECONDS - 1), ("tidy", []))
    assert node.follow("", *orders) == [[]]
    assert node.left == [212]


def test_what_came_after_the_last_look_is_left_alone(node: Node) -> None:
    assert node.follow("", LOOK, WAIT, ("make", vnpu(0, 212)), ("tidy", [])) == [[]]
    assert node.left == [212]


def test_what_was_in_use_and_is_not_any_more_waits_again(node: Node) -> None:
    """A vNPU that a container opened and closed counts from then on."""
    orders = (LOOK, WAIT, ("state", vnpu(0, 212)), LOOK, ("tidy", []))
    assert node.follow(vnpu(0, 212, used=1), *orders) == [[]]
    assert node.left == [212]


def test_a_card_on_which_a_process_runs_is_left_alone(node: Node, npus: Any) -> None:
    (node.root / "scenario").write_text(npus(2, processes=1))
    assert node.follow(vnpu(0, 212), LOOK, WAIT, ("tidy", [])) == [[]]
    assert node.left == [212]


def test_it_is_off_unless_wanted(node: Node) -> None:
    assert node.follow(vnpu(0, 212), LOOK, WAIT, ("tidy", []), section={}) == [[]]
    assert node.left == [212]


@pytest.mark.parametrize("other", ["huawei.com/Ascend910", "huawei.com/npu-core"])
def test_another_plugins_vnpus_are_its_own(node: Node, other: str) -> None:
    node.plugins("huawei.com/Ascend910B4", other)
    (told,) = node.follow(vnpu(0, 212), LOOK, WAIT, ("tidy", []))
    assert told == [f"nothing: another plugin of this node serves {other}"]
    assert node.left == [212]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"Data": null}'])
def test_where_kubelet_does_not_tell_nothing_is_removed(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / CHECKPOINT).parent.mkdir(parents=True)
        (tmp_path / CHECKPOINT).write_text(content)
    assert "does not tell which plugins this node has" in strangers(str(tmp_path), ())


def test_a_vnpu_that_stays_is_told_and_the_others_go(node: Node, lines: Any) -> None:
    vnpus = vnpu(0, 212) + vnpu(1, 196)
    broken = lines.fault(call="dcmi_set_destroy_vdevice", card=0, status=-8020)
    (told,) = node.follow(vnpus, ("fault", broken), LOOK, WAIT, LOOK, ("tidy", []))
    assert (
        "stays: dcmi_set_destroy_vdevice answers -8020 (the device's resources are occupied)"
        in told[0]
    )
    assert node.left == [212]


def test_a_driver_that_does_not_tell_its_vnpus_has_none_that_could_go(
    node: Node, lines: Any
) -> None:
    broken = lines.fault(call="dcmi_get_device_info", status=-8255)
    assert node.follow(vnpu(0, 212), ("fault", broken), LOOK, WAIT, ("tidy", [])) == [[]]
    assert node.left == [212]


def test_without_the_option_nothing_is_asked_of_the_driver() -> None:
    assert AscendNode(VendorSettings(host_root="/nowhere")).tidy([holder("x")]) == ()
