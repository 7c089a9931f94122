"""What all drivers' libraries may do to a node, through the production bindings in the real probe: a
card that drops and comes back, a call that hangs, crashes, fails or is not there, a file that is no
library. No call of these libraries but NVML's takes a structure with a version, which its own tests
get wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.vendor import DriverError, Snapshot


@dataclass(frozen=True)
class Abi:
    """A library: its fake, where the host has it, and what it reads. `init` comes first and has
    `status` for a driver that is not there, `count` tells how many, `one` is asked of each card.
    """

    fake: str
    path: str
    variable: str
    presence: str
    cards: str
    init: str
    status: tuple[int, str]
    count: str
    one: str

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


DIE = "0000000{0}-00000012-0BADF00D-00FF00FF-12345678"
NPU = "card|id={0}|name=910B4|logic={0}|phy={0}|die=" + DIE + "|hbm=32768|bus=0000:C{0}:00.0\n"
ABIS = {
    "ascend": Abi(
        "ascend",
        "usr/local/Ascend/driver/lib64/driver/libdcmi.so",
        "FAKE_DCMI_SCENARIO",
        "dev/davinci_manager",
        NPU.format(0) + NPU.format(1),
        "dcmi_init",
        (-8002, "no permission"),
        "dcmi_get_card_list",
        "dcmi_get_device_logic_id",
    ),
    "iluvatar": Abi(
        "ixml",
        "usr/local/corex/lib64/libixml.so",
        "FAKE_IXML",
        "dev/itrctl",
        "card|x=0\ncard|x=0\n",
        "nvmlInit_v2",
        (9, "the driver is not loaded"),
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetName",
    ),
    "kunlunxin": Abi(
        "xpuml",
        "usr/local/xpu/lib64/libxpuml.so.1",
        "FAKE_XPUML",
        "dev/xpuctrl",
        "card|bus=3\ncard|bus=5\n",
        "xpumlInit",
        (9, "the driver is not loaded"),
        "xpumlDeviceGetCount",
        "xpumlDeviceGetState",
    ),
    "metax": Abi(
        "mxsml",
        "opt/mxdriver/lib/libmxsml.so",
        "FAKE_MXSML",
        "dev/mxcd",
        "card|x=0\ncard|x=0\n",
        "mxSmlInit",
        (8, "no permission"),
        "mxSmlGetDeviceCount",
        "mxSmlGetMemoryInfo",
    ),
    "hygon": Abi(
        "rocm_smi",
        "opt/hyhal/lib/librocm_smi64.so.2",
        "FAKE_ROCM_SMI",
        "dev/mkfd",
        "card|x=0\ncard|x=0\n",
        "rsmi_init",
        (8, "not initialised"),
        "rsmi_num_monitor_devices",
        "rsmi_dev_id_get",
    ),
}


class Host:
    """A host with one vendor's driver."""

    def __init__(self, vendor: str, root: Path, probed: Callable[..., Snapshot]) -> None:
        self.vendor, self.abi, self.root, self._probed = vendor, ABIS[vendor], root, probed
        self.library = root / self.abi.path
        self.library.parent.mkdir(parents=True)
        presence = root / self.abi.presence
        presence.parent.mkdir(exist_ok=True)
        presence.touch()

    def ask(self, *faults: str, deadline: float = 60.0) -> Snapshot:
        """One discovery. Raises `DriverError`."""
        lines = (f"fault|{fault}\n" for fault in faults)
        (self.root / "scenario").write_text(self.abi.cards + "".join(lines))
        return self._probed(self.vendor, self.root, deadline=deadline)


@pytest.fixture(params=sorted(ABIS))
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(
    vendor: str,
    tmp_path: Path,
    built: Callable[..., Path],
    probed: Callable[..., Snapshot],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Host]:
    """The host, its library built with these flags."""

    def make(*flags: str) -> Host:
        made = Host(vendor, tmp_path, probed)
        made.library.write_bytes(built(made.abi.fake, made.abi.file, *flags).read_bytes())
        monkeypatch.setenv(made.abi.variable, str(tmp_path / "scenario"))
        return made

    return make


def test_a_card_that_drops_costs_itself_and_comes_back(host: Any) -> None:
    node = host()
    both = [device.uuid for device in node.ask().devices]
    assert len(both) == 2
    dropped = node.ask(f"call={node.abi.one}|card=0|status={node.abi.status[0]}")
    assert [device.uuid for device in dropped.devices] == both[1:]
    assert any("left out" in problem and node.abi.one in problem for problem in dropped.problems)
    assert [device.uuid for device in node.ask().devices] == both


@pytest.mark.parametrize(("what", "cause"), [("hang", "deadline"), ("crash", "crash")])
def test_a_call_that_never_returns_costs_a_probe(host: Any, what: str, cause: str) -> None:
    node = host()
    with pytest.raises(DriverError, match=f"^{cause}: "):
        node.ask(f"call={node.abi.one}|do={what}", deadline=3.0 if what == "hang" else 60.0)


def test_a_driver_that_does_not_start_says_why(host: Any) -> None:
    node = host()
    status, meaning = node.abi.status
    with pytest.raises(DriverError, match=rf"{node.abi.init} answers {status} \({meaning}"):
        node.ask(f"call={node.abi.init}|status={status}")


def test_a_library_without_a_call_that_is_needed_is_told_by_name(host: Any, vendor: str) -> None:
    node = host(f"-D{ABIS[vendor].count}=not_in_this_release")
    with pytest.raises(DriverError, match=rf"{node.abi.count} is not in .*{node.abi.file}"):
        node.ask()


def test_a_status_that_nobody_knows_is_shown(host: Any) -> None:
    node = host()
    with pytest.raises(DriverError, match=r"answers 77 \(a status that is not documented\)"):
        node.ask(f"call={node.abi.init}|status=77")


def test_a_file_that_is_no_library_is_no_crash(host: Any) -> None:
    node = host()
    node.library.write_text("not a library\n")
    with pytest.raises(DriverError, match="cannot be loaded"):
        node.ask()
