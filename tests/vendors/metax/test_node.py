"""MetaX's node half: cards, sGPUs by the kernel's files, and pods on their whole way."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import tidying
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendor import (
    DriverError,
    Grant,
    Owner,
    PhysicalDevice,
    Sharing,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendors.metax import library
from deviceplugin.vendors.metax.node import MetaxNode
from deviceplugin.vendors.metax.sgpufs import SgpuFiles, alias

LIBRARY = "opt/mxdriver/lib/libmxsml.so"
GPU, SGPU = "metax-tech.com/gpu", "metax-tech.com/sgpu"
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
LOCKLESS = {**LOCKED, "lockless": "verify"}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}


class Kernel:
    """The driver's files of sGPUs: what is written to ``create`` becomes an instance."""

    def __init__(self, root: Path, cards: int = 2) -> None:
        self.directories = []
        (root / "dev").mkdir(parents=True, exist_ok=True)
        (root / "dev/mxcd").touch()
        for number in range(cards):
            device = root / f"sys/bus/pci/devices/0000:{0x0E + number:02x}:00.0"
            for name in (f"card{number}", f"renderD{128 + number}"):
                (device / "drm" / name).mkdir(parents=True)
            (device / "vendor").write_text("0x9999\n")
            (device / "numa_node").write_text("-1\n")
            directory = device / "sgpu"
            directory.mkdir()
            for name in ("create", "remove"):
                (directory / name).write_text("")
            (directory / "sched_class").write_text("0\n")
            self.directories.append(directory)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def step(self) -> None:
        for directory in self.directories:
            if text := (directory / "create").read_text():
                (directory / "create").write_text("")
                used = {path.name for path in directory.glob("sgpu*")}
                number = next(n for n in range(16) if f"sgpu{n}" not in used)
                (directory / f"sgpu{number}").mkdir()
                (directory / f"sgpu{number}" / "vram").write_text(text)
            if text := (directory / "remove").read_text():
                (directory / "remove").write_text("")
                instance = directory / f"sgpu{text}"
                for path in instance.iterdir():
                    path.unlink()
                instance.rmdir()

    def _run(self) -> None:
        while not self._ended.wait(0.002):
            self.step()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def host(
    tmp_path: Path, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    def make(scenario: str, *flags: str) -> Path:
        target = tmp_path / LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(built("mxsml", "libmxsml.so", *flags).read_bytes())
        (tmp_path / "scenario").write_text(scenario)
        monkeypatch.setenv("FAKE_MXSML", str(tmp_path / "scenario"))
        return tmp_path

    return make


def test_structures_have_the_sizes_of_the_public_binding() -> None:
    assert ctypes.sizeof(library.DeviceInfo) == 4 * 6 + 32 + 96 + 32
    assert ctypes.sizeof(library.MemoryInfo) == 48
    assert ctypes.sizeof(library.Unavailable) == 68


def test_cards_are_found(
    kernel: Kernel, host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(lines.card() + lines.card(state=0, reason="ECC"))
    snapshot = probed("metax", root, {"linkZones": [[0, 1]]})
    first, second = snapshot.devices
    assert (first.uuid, first.model, first.memory_mib) == ("GPU-0", "MXC500", 65536)
    assert first.device_nodes == ("/dev/mxcd", "/dev/dri/card0", "/dev/dri/renderD128")
    assert first.links == {"GPU-1": 100}
    assert second.reason == "the driver says that it is not available: ECC"


def test_without_the_library_the_kernel_knows_the_cards(
    kernel: Kernel, tmp_path: Path, probed: Callable[..., Snapshot]
) -> None:
    (tmp_path / "dev/mxcd").unlink()
    with pytest.raises(DriverError) as raised:
        probed("metax", tmp_path)
    assert raised.value.absent


@pytest.mark.parametrize(
    ("call", "given", "said"),
    [
        ("mxSmlGetDeviceInfo", {"status": 8}, "no permission"),
        (None, {"uuid": "GPU-0"}, "another device has the same uuid"),
        (None, {"uuid": ""}, "it has no uuid"),
    ],
)
def test_a_card_that_cannot_be_served_is_left_out_alone(
    kernel: Kernel,
    host: Callable[..., Path],
    probed: Callable[..., Snapshot],
    lines: Any,
    call: str | None,
    given: dict[str, Any],
    said: str,
) -> None:
    bad = lines.card() + lines.fault(call=call, card=1, **given) if call else lines.card(**given)
    snapshot = probed("metax", host(lines.card() + bad))
    assert [device.uuid for device in snapshot.devices] == ["GPU-0"]
    assert said in snapshot.problems[0]


# --- sGPUs ----------------------------------------------------------------------------------------


def request(holder: str = "uid", **more: Any) -> dict[str, Any]:
    return {
        "bdf": "0000:0e:00.0",
        "alias": alias(holder, "main", "GPU-0"),
        "memory_mib": 4096,
        "policy": "fixed-share",
        **more,
    }


def slow_files(root: Path, kernel: Kernel) -> SgpuFiles:
    """The kernel answers a write at once: here the thread that plays it is waited for."""
    files = SgpuFiles(str(root), dry_run=False)
    write = Path.write_text

    def waited(self: Path, text: str, *arguments: Any, **more: Any) -> int:
        done = write(self, text, *arguments, **more)
        if self.name in ("create", "remove"):
            kernel.step()
        return done

    Path.write_text = waited  # type: ignore[method-assign]
    return files


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[SgpuFiles, Kernel]]:
    kernel = Kernel(tmp_path)
    write = Path.write_text
    yield slow_files(tmp_path, kernel), kernel
    Path.write_text = write  # type: ignore[method-assign]


def test_an_sgpu_is_made_once_and_found_again(files: tuple[SgpuFiles, Kernel]) -> None:
    made, kernel = files
    assert made.make(request()) == {"bdf": "0000:0e:00.0", "number": 0}
    assert (kernel.directories[0] / "sched_class").read_text() == "1"
    assert (kernel.directories[0] / "sgpu0" / "vram").read_text() == "4096"
    assert made.make(request()) == {"bdf": "0000:0e:00.0", "number": 0}
    assert made.make(request("other")) == {"bdf": "0000:0e:00.0", "number": 1}


def test_a_card_keeps_one_policy_while_it_has_sgpus(files: tuple[SgpuFiles, Kernel]) -> None:
    made, _ = files
    made.make(request())
    assert made.policy("0000:0e:00.0") == "fixed-share"
    with pytest.raises(DriverError, match="has sGPUs of policy fixed-share, burst-share"):
        made.make(request("other", policy="burst-share"))


def test_a_card_in_another_mode_is_named_with_the_remedy(files: tuple[SgpuFiles, Kernel]) -> None:
    made, _ = files
    with pytest.raises(DriverError, match="mx-smi sgpu --enable"):
        made.make(request(bdf="0000:99:00.0"))


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    with pytest.raises(DriverError, match=r"a dry run .* would write 1 to .*sched_class; 4096 to"):
        SgpuFiles(str(tmp_path), dry_run=True).make(request())
    kernel.step()
    assert not list(kernel.directories[0].glob("sgpu*"))


def test_sgpus_of_nobody_go_and_all_others_stay(files: tuple[SgpuFiles, Kernel]) -> None:
    made, kernel = files
    for holder in ("uid", "gone", "alloc"):
        name = alias(holder, "" if holder == "alloc" else "main", "GPU-0")
        made.make(request(holder, alias=name))
    (kernel.directories[0] / "sgpu7").mkdir()
    (kernel.directories[0] / "sgpu7" / "alias").write_text("somebodys")
    cards = {"0000:0e:00.0": "GPU-0"}
    held = [
        {"pod_uid": "uid", "allocation": "x", "container": "main"},
        {"pod_uid": "uid-2", "allocation": "alloc", "container": "c"},
    ]
    assert made.tidy([*held, {"pod_uid": "", "allocation": "y", "container": ""}], cards) == []
    assert made.tidy(held, cards) == ["sGPU 1 of 0000:0e:00.0"]
    assert {p.name for p in kernel.directories[0].glob("sgpu*")} == {"sgpu0", "sgpu2", "sgpu7"}


# --- pure parts -----------------------------------------------------------------------------------

CARD = PhysicalDevice(
    "GPU-0", "0", "MXC500", 65536, device_nodes=("/dev/mxcd", "/dev/dri/card0"),
    attributes={"bdf": "0000:0e:00.0", "linkZone": "1"},
)  # fmt: skip


def node(**section: Any) -> MetaxNode:
    return MetaxNode(VendorSettings(node_name="n", section=section))


def test_sgpus_are_left_to_the_vendor_unless_asked_for() -> None:
    (plan,) = node(sharedDevices="all").plan(Snapshot((CARD,)))
    assert (plan.resource, plan.names) == (GPU, {"n-metax-0": "GPU-0"})
    (plan,) = node(sgpu="on", sharedDevices="all").plan(Snapshot((CARD,)))
    assert (plan.resource, plan.split.count) == (SGPU, 16)


def test_a_wrong_policy_in_a_pod_is_refused() -> None:
    grant = Grant(CARD, sharing=Sharing.LIMITED, memory_mib=4096, cores_percent=50)
    owner = Owner(SGPU, "a", pod_annotations={"metax-tech.com/sgpu-qos-policy": "\x00"})
    with pytest.raises(ValueError, match="must be set one of"):
        node(sgpu="on").slot_request(grant, owner)


def test_parts_of_several_cards_are_refused() -> None:
    part = Grant(CARD, sharing=Sharing.LIMITED, memory_mib=4096, cores_percent=50)
    with pytest.raises(ValueError, match="one sGPU or whole cards"):
        node().edits([part, Grant(CARD)], Owner(SGPU, "a"))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"sgpu": "yes"}, "known are off, dry-run, on|unknown value"),
        ({"linkZones": [0, 1]}, "linkZones|not a list"),
        ({"sharedDevices": "some"}, "write all, none"),
    ],
)
def test_a_section_that_cannot_be_used_names_the_key(section: dict[str, Any], said: str) -> None:
    if section == {"linkZones": [0, 1]}:
        assert node(**section)  # a number is a list of one
        return
    with pytest.raises(ValueError, match=said):
        node(**section)


# --- the whole way --------------------------------------------------------------------------------


@pytest.fixture
def metax(machine: Callable[..., Any], built: Callable[..., Path], lines: Any) -> Any:
    made = machine(
        "metax",
        built("mxsml", "libmxsml.so"),
        LIBRARY,
        "FAKE_MXSML",
        lines.card() + lines.card(),
    )
    made.kernel = Kernel(made.host)
    return made


@pytest.mark.parametrize("mode", [LOCKLESS, DEFERRED], ids=["locked", "deferred"])
async def test_whole_cards_are_those_that_the_scheduler_names(
    metax: Any, doc_pods: Any, mode: dict[str, Any]
) -> None:
    await metax.start(mode, GPU)
    outcome = await metax.run(doc_pods("metax")["whole"], Habit.VOLCANO)
    told = metax.cluster.pod_annotations("whole")
    assert told["hami.io/metax-gpu-devices-allocated"] == (
        "node-a-metax-1,Metax-GPU,65536,100:;node-a-metax-0,Metax-GPU,65536,100:;"
    )
    first = metax.seen(outcome.containers["first"])
    second = metax.seen(outcome.containers["second"])
    assert first["devices"] == ["/dev/dri/card1", "/dev/dri/renderD129", "/dev/mxcd"]
    assert second["devices"] == ["/dev/dri/card0", "/dev/dri/renderD128", "/dev/mxcd"]


@pytest.mark.parametrize(
    ("mode", "habit"),
    [(LOCKED, Habit.HAMI28), (DEFERRED, Habit.OURS)],
    ids=["locked", "deferred"],
)
async def test_an_sgpu_reaches_its_container_and_goes_after_it(
    metax: Any,
    doc_pods: Any,
    mode: dict[str, Any],
    habit: Habit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probe is another process: here the kernel is played by a thread that polls, so the file
    ``create`` is a pipe's other end in effect.
    """
    monkeypatch.setattr(tidying, "MISSING_SECONDS", 0.5)
    monkeypatch.setattr(tidying, "ASKED_SECONDS", 0.5)
    sections = {"metax": {"sgpu": "on", "sharedDevices": "all", "linkZones": [[0, 1]]}}
    await metax.start(mode, SGPU, sections=sections)
    listed = metax.cluster.node_annotations()["metax-tech.com/node-gpu-devices"]
    assert listed.startswith(
        '[{"uuid":"GPU-0","bdf":"0000:0e:00.0","model":"sgpu","totalDevCount":16,'
        '"totalCompute":100,"totalVRam":65536,"availableDevCount":16,"availableCompute":100,'
        '"availableVRam":65536,"healthy":true,"linkZone":1},{"uuid":"GPU-1",'
    )
    directory = metax.kernel.directories[1]
    name = await metax.create(doc_pods("metax")["share"], habit)
    uid = metax.cluster.server.get("pods", name, "default")["metadata"]["uid"]
    instance = directory / "sgpu3"
    instance.mkdir()
    (instance / "alias").write_text(alias(uid, "main", "GPU-1"))
    outcome = await metax.cluster.run("default", name, 10.0)
    assert outcome.failure == ""
    told = metax.cluster.pod_annotations(name)
    assert told["metax-tech.com/gpu-devices-allocated"] == (
        '[[{"uuid":"GPU-1","compute":60,"vRam":4096}]]'
    )
    assert told["metax-tech.com/sgpu-qos-policy"] == "best-effort"
    assert len(told["metax-tech.com/predicate-time"]) == 19
    seen = metax.seen(outcome.containers["main"])
    assert seen["env"]["METAX_SGPUS"] == (
        f"sgpu=0000:0f:00.0#3;compute=60;vram=4096;alias={alias(uid, 'main', 'GPU-1')}"
    )
    metax.cluster.end("default", name)
    await metax.cluster.until(lambda: (directory / "remove").read_text() == "3", 15.0)
