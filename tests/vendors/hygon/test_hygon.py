"""Hygon: discovery, requests, and pods on their whole way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import tidying
from deviceplugin.api.hami import register
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import MUTEX_LOCK, VENDORS
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.request import asks
from deviceplugin.placement.rules import selectors
from deviceplugin.testing.cluster import devices
from deviceplugin.testing.kubelet import StartError
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendor import (
    DriverError,
    Grant,
    Owner,
    PhysicalDevice,
    Replicas,
    Sharing,
    Snapshot,
    VendorSettings,
)
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerSpec,
    NodeDevice,
    NodeFacts,
    Obstacle,
    PodSpec,
    Policy,
    RefusedError,
    SchedulingSettings,
    Unfit,
)
from deviceplugin.vendors.hygon.node import HygonNode
from deviceplugin.vendors.hygon.scheduling import backends
from deviceplugin.vendors.hygon.vdev import parsed

LIBRARY = "opt/hyhal/lib/librocm_smi64.so.2"
COUNT = "hygon.com/dcunum"
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
LOCKED_CDI = {"allocation": "scheduled-locked", "device_list_strategy": ("cdi-cri",)}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
STANDALONE = {"allocation": "standalone", "device_list_strategy": ("envvar",)}


def drm(root: Path, bus: int, number: int) -> None:
    """The kernel's nodes of a card."""
    directory = root / f"sys/bus/pci/devices/0000:{bus:02x}:00.0/drm"
    for name in (f"card{number}", f"renderD{128 + number}", "controlD64"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory.parent / "numa_node").write_text(f"{number}\n")


def around(root: Path) -> None:
    """What a node has beside its cards."""
    for path in ("opt/dtk", "opt/hyhal", "dev"):
        (root / path).mkdir(parents=True, exist_ok=True)
    for path in ("dev/kfd", "dev/mkfd"):
        (root / path).touch()


@pytest.fixture
def host(
    tmp_path: Path, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    def make(scenario: str, *flags: str) -> Path:
        target = tmp_path / LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        library = built("rocm_smi", "librocm_smi64.so.2", *flags).read_bytes()
        target.write_bytes(library)
        (tmp_path / "library").write_bytes(library)
        (tmp_path / "scenario").write_text(scenario)
        monkeypatch.setenv("FAKE_ROCM_SMI", str(tmp_path / "scenario"))
        for number in range(3):
            drm(tmp_path, 0x33 + number, 2 - number)
        around(tmp_path)
        return tmp_path

    return make


def test_cards_are_found_with_the_nodes_of_their_place(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(lines.card(hive=1) + lines.card(hive=1, id=0x55B7, numa=5) + lines.card(id=0x1234))
    first, second, third = probed("hygon", root).devices
    assert (first.uuid, first.model, first.memory_mib) == ("DCU-TR0", "K100_AI", 65520)
    assert first.device_nodes == ("/dev/dri/card2", "/dev/dri/renderD130")
    assert first.attributes == {"busId": "0000:33:00.0", "computeUnits": "120"}
    assert first.links == {"DCU-TR1": 100}
    assert (first.numa_node, second.numa_node) == (2, 5)
    assert (third.model, third.attributes["computeUnits"]) == ("1234", "0")


UNIQUE = "DCU-000000000000abc1"
PLACE = "DCU-0000-34-00.0"


@pytest.mark.parametrize(
    ("given", "flags", "uuid"),
    [
        ({"serial": "N/A"}, (), UNIQUE),
        ({"serial": ""}, (), UNIQUE),
        ({"serial": "00000000"}, (), UNIQUE),
        ({"serial": "Unknown"}, (), UNIQUE),
        ({"serial": r"A:B,\xff"}, (), UNIQUE),
        ({"serial": "x" * 60}, (), UNIQUE),
        ({"serial": "", "unique": 0}, (), PLACE),
        ({"serial": "", "unique": 0xABC0}, (), PLACE),
        ({"serial": ""}, ("-DWITHOUT_UNIQUE_ID",), PLACE),
    ],
)
def test_a_card_without_a_serial_number_still_has_a_name_of_its_own(
    host: Callable[..., Path],
    probed: Callable[..., Snapshot],
    lines: Any,
    given: dict[str, Any],
    flags: tuple[str, ...],
    uuid: str,
) -> None:
    snapshot = probed("hygon", host(lines.card() + lines.card(**given), *flags))
    assert [device.uuid for device in snapshot.devices] == ["DCU-TR0", uuid]
    (problem,) = snapshot.problems
    assert problem.startswith("card 1: its serial number ")
    assert problem.endswith(f" is none; it is called {uuid}")


def test_cards_with_one_serial_number_do_not_swap_names_when_one_drops(
    host: Callable[..., Path], lines: Any
) -> None:
    first, second = lines.card(serial="SAME"), lines.card(serial="SAME", bus=0x34, unique=0xABC1)
    node = HygonNode(VendorSettings(host_root=str(root := host(first + second))))
    found = node.discover()
    assert [d.uuid for d in found.devices] == ["DCU-000000000000abc0", UNIQUE]
    assert all("'SAME' is another card's too" in problem for problem in found.problems)
    (root / "scenario").write_text(second)
    assert [d.uuid for d in node.discover().devices] == [UNIQUE]


def test_a_place_on_the_bus_is_unpacked(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    packed = 1 << 32 | 0xAB << 8 | 0x1F << 3 | 7
    (device,) = probed("hygon", host(lines.card(pci=packed, serial="", unique=0))).devices
    assert device.attributes["busId"] == "0001:ab:1f.7"
    assert device.uuid == "DCU-0001-ab-1f.7"


# --- health and problems --------------------------------------------------------------------------


def test_a_card_that_fails_is_the_same_card_and_comes_back(
    host: Callable[..., Path], lines: Any
) -> None:
    root = host(lines.card() + lines.card())
    node = HygonNode(VendorSettings(host_root=str(root)))
    before = node.discover()
    scenario = (root / "scenario").read_text()
    bad = lines.fault(call="rsmi_dev_memory_total_get", card=0, status=3)
    (root / "scenario").write_text(scenario + bad)
    first, second = node.discover().devices
    assert (first.healthy, second.healthy) == (False, True)
    assert "rsmi_dev_memory_total_get answers 3 (a file cannot be read)" in first.reason
    assert (first.uuid, first.memory_mib) == ("DCU-TR0", 65520)
    (root / "scenario").write_text(scenario)
    assert node.discover() == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("dev/kfd", "/dev/kfd cannot be opened (No such file or directory)"),
        ("dev/mkfd", "/dev/mkfd is not there"),
    ],
)
def test_without_the_drivers_nodes_no_card_is_healthy(
    host: Callable[..., Path], lines: Any, path: str, said: str
) -> None:
    root = host(lines.card() + lines.card())
    node = HygonNode(VendorSettings(host_root=str(root)))
    assert all(device.healthy for device in node.discover().devices)
    (root / path).unlink()
    found = node.discover().devices
    assert [device.healthy for device in found] == [False, False]
    assert said in found[0].reason
    (root / path).touch()
    assert all(device.healthy for device in node.discover().devices)


def test_a_card_without_device_nodes_is_unhealthy(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    (device,) = probed("hygon", host(lines.card(bus=0x77))).devices
    assert (device.healthy, device.device_nodes) == (False, ())
    assert "/dev/dri" in device.reason


def test_a_card_without_memory_is_left_out_alone(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    snapshot = probed("hygon", host(lines.card() + lines.card(mib=0)))
    assert [device.uuid for device in snapshot.devices] == ["DCU-TR0"]
    assert snapshot.problems[0].startswith("card 1 is left out: it reports no memory")


def test_two_cards_that_nothing_tells_apart_are_left_out_with_the_place(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    twin = lines.card(bus=0x33, serial="", unique=0)
    snapshot = probed("hygon", host(twin + twin + lines.card(bus=0x35)))
    assert [device.uuid for device in snapshot.devices] == ["DCU-TR2"]
    assert "another has its place on the bus, 0000:33:00.0" in snapshot.problems[0]


def test_a_card_that_only_the_kernel_knows_is_named(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(lines.card())
    for where, number in (("33:00.0", "6210"), ("34:00.0", "6210"), ("00:18.0", "1460")):
        function = root / "sys/bus/pci/devices" / f"0000:{where}"
        function.mkdir(exist_ok=True)
        (function / "vendor").write_text("0x1d94\n")
        (function / "device").write_text(f"0x{number}\n")
    (problem,) = probed("hygon", root).problems
    assert problem.startswith("the driver does not list the card at 0000:34:00.0")


def test_an_older_library_costs_what_it_lacks_and_no_more(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(lines.card(hive=1) + lines.card(hive=1), "-DWITHOUT_TOPOLOGY")
    snapshot = probed("hygon", root)
    assert [device.numa_node for device in snapshot.devices] == [2, 1]  # as the kernel says
    assert snapshot.devices[0].links == {}
    assert snapshot.problems == ()


def test_a_call_that_fails_where_another_source_knows_costs_nothing(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    bad = lines.fault(call="rsmi_topo_get_numa_node_number", status=2)
    (device,) = probed("hygon", host(lines.card() + bad)).devices
    assert (device.numa_node, device.healthy) == (2, True)


def test_what_containers_get_and_the_node_lacks_is_named(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    root = host(lines.card(id=0x1234))
    (root / "opt/dtk").rmdir()
    shutil.rmtree(root / "opt/hyhal/lib")
    shutil.move(root / "opt/hyhal", root / "elsewhere")
    target = root / "opt/rocm/lib"
    target.mkdir(parents=True)
    (target / "librocm_smi64.so").write_bytes((root / "library").read_bytes())
    problems = probed("hygon", root).problems
    assert [problem.partition(",")[0] for problem in problems[:2]] == ["/opt/dtk", "/opt/hyhal"]
    assert "cards '1234' are handed out whole only" in problems[2]
    assert not any("/opt/hyhal" in p for p in probed("hygon", root, {"hyhalRoot": ""}).problems)
    known = probed("hygon", root, {"computeUnits": {1234: 96}})
    assert known.devices[0].attributes["computeUnits"] == "96"
    assert not any("1234" in problem for problem in known.problems)


def test_without_a_library_the_node_has_no_driver(
    tmp_path: Path, probed: Callable[..., Snapshot]
) -> None:
    with pytest.raises(DriverError, match=r"librocm_smi64\.so\.2 or librocm_smi64\.so") as caught:
        probed("hygon", tmp_path)
    assert caught.value.absent
    around(tmp_path)
    with pytest.raises(DriverError, match="error: librocm_smi64") as caught:
        probed("hygon", tmp_path)
    assert not caught.value.absent


# --- pure parts -----------------------------------------------------------------------------------


def card(model: str = "Z100L", units: str = "60") -> PhysicalDevice:
    return PhysicalDevice(
        "DCU-1",
        "0",
        model,
        16384,
        device_nodes=("/dev/dri/card7", "/dev/dri/renderD135"),
        attributes={"busId": "0000:33:00.0", "computeUnits": units},
    )


def node(**section: Any) -> HygonNode:
    return HygonNode(VendorSettings(section=section))


OWNER = Owner(COUNT, "alloc-1", "uid-1", "ns", "p", "main")


def share(memory: int | None, cores: int | None, **more: Any) -> Grant:
    given = {"device": card(), "sharing": Sharing.LIMITED, **more}
    return Grant(memory_mib=memory, cores_percent=cores, **given)


@pytest.mark.parametrize(
    ("memory", "cores", "units"),
    [(2000, 15, 9), (16384, 50, 30), (2000, 100, 60), (2000, None, 60), (2000, 200, 60)],
)
def test_a_part_of_a_card_is_a_virtual_dcu(memory: int, cores: int | None, units: int) -> None:
    request = node().slot_request(share(memory, cores), replace(OWNER, apart=("init",)))
    assert request == {
        "uuid": "DCU-1",
        "holder": "uid-1",
        "container": "main",
        "apart": ["init"],
        "card": 0,
        "address": "0000:33:00.0",
        "memory_mib": memory,
        "units": units,
        "of": 60,
    }


@pytest.mark.parametrize(("memory", "cores"), [(None, None), (16384, 100), (20000, 100)])
def test_a_whole_card_is_none(memory: int | None, cores: int | None) -> None:
    assert node().slot_request(share(memory, cores), OWNER) is None


def test_a_card_is_compared_with_its_own_memory() -> None:
    large = replace(card(), memory_mib=65520)
    assert node().slot_request(share(16384, 100, device=large), OWNER) is not None


def test_cores_alone_make_a_virtual_dcu_with_all_memory() -> None:
    request = node().slot_request(share(0, 50), OWNER)
    assert request is not None
    assert (request["units"], request["memory_mib"]) == (30, 16384)


def test_alone_the_allocation_names_the_holder() -> None:
    request = node().slot_request(share(1000, 10), Owner(COUNT, "alloc-1"))
    assert request is not None
    assert request["holder"] == "alloc-1"


def test_a_card_of_unknown_size_is_not_divided_until_somebody_says_how() -> None:
    grant = share(1000, 10, device=card("6216", "0"))
    with pytest.raises(ValueError, match=r"hygon\.computeUnits\.6216"):
        node().slot_request(grant, OWNER)


@pytest.mark.parametrize("cores", [0, 1])
def test_less_than_one_compute_unit_is_refused(cores: int) -> None:
    with pytest.raises(ValueError, match=rf"{cores}% of the 60 compute units of DCU-1 is not one"):
        node().slot_request(share(1000, cores), OWNER)


def test_parts_of_several_cards_are_refused_before_anything_is_made() -> None:
    grants = [share(1000, 10), share(16384, 100)]
    for refuses in (node().examine, node().edits):
        with pytest.raises(ValueError, match="one virtual DCU or whole cards"):
            refuses(grants, OWNER)
    node().examine([share(16384, 100), share(None, None)], OWNER)


DIRECTORY = f"/usr/local/vgpu/dcu/uid-1_main_0_0_3_{'0' * 13}1ff_{'0' * 16}"


def test_a_virtual_dcu_stands_in_place_of_its_card() -> None:
    made = node().slot_granted(share(2000, 15), {"vdev": DIRECTORY})
    assert (made.device.parent_uuid, made.device.index) == ("DCU-1", "0:3")
    assert made.device.uuid == DIRECTORY.rpartition("/")[2]
    assert node().slot_request(made, OWNER) is None
    edits = node(toolkitRoot="/opt/dtk-26").edits([made], OWNER)
    assert [(m.host_path, m.container_path, m.options[0]) for m in edits.mounts] == [
        (DIRECTORY, "/etc/vdev/docker/", "rw"),
        ("/opt/dtk-26", "/opt/hygondriver", "ro"),
        ("/opt/hyhal", "/opt/hyhal", "ro"),
    ]
    assert [(n.path, n.permissions) for n in edits.device_nodes] == [
        ("/dev/kfd", "rwm"),
        ("/dev/mkfd", "rwm"),
        ("/dev/dri/card7", "rw"),
        ("/dev/dri/renderD135", "rw"),
    ]
    assert edits.env == {}


@pytest.mark.parametrize("answer", [{}, {"vdev": 3}, {"vdev": "x"}, {"vdev": "/etc/passwd"}])
def test_an_answer_that_names_no_virtual_dcu_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="names no directory of a virtual DCU"):
        node().slot_granted(share(2000, 15), answer)


def test_a_part_that_was_not_made_is_never_the_whole_card() -> None:
    with pytest.raises(ValueError, match="no virtual DCU of DCU-1 was made"):
        node().edits([share(2000, 15)], OWNER)


def test_a_whole_card_has_the_driver_and_no_virtual_dcu() -> None:
    edits = node().edits([share(None, None)], OWNER)
    assert [m.container_path for m in edits.mounts] == ["/opt/hyhal"]
    assert node(hyhalRoot="").edits([share(None, None)], OWNER).mounts == ()


def test_turns_on_whole_cards_are_the_operators_word() -> None:
    snapshot = Snapshot((card(),))
    (plan,) = node().plan(snapshot)
    assert (plan.split.count, plan.split.sharing) == (4, Sharing.LIMITED)
    (plan,) = HygonNode(VendorSettings(enforce_isolation=False)).plan(snapshot)
    assert plan.split.sharing is Sharing.TIME_SLICING
    (plan,) = node(deviceSplitCount=1).plan(snapshot)
    assert plan.split.sharing is Sharing.EXCLUSIVE
    shared = VendorSettings(sharing={COUNT: Replicas(8, Sharing.TIME_SLICING)})
    with pytest.raises(ValueError, match=r"hygon\.deviceSplitCount"):
        HygonNode(shared).plan(snapshot)


def test_schedulers_are_told_the_model_the_count_and_the_health() -> None:
    sick = replace(card(), healthy=False, numa_node=1)
    hygon = node(deviceSplitCount=8)
    (plan,) = hygon.plan(Snapshot((sick,)))
    text = register.encode_legacy(hygon.registered(plan, Snapshot((sick,))))
    assert text == "DCU-1,8,16384,100,DCU-Z100L,1,false,0,hami:"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"computeUnits": {"X": 0}}, "computeUnits.X"),
        ({"toolkitRoot": "opt"}, "begin with /"),
        ({"deviceSplitCount": 21}, "out of range"),
    ],
)
def test_a_section_that_cannot_be_used_names_the_key(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        node(**section)


# --- requests -------------------------------------------------------------------------------------


def demand(
    limits: dict[str, object], requests: dict[str, object] | None = None, **section: Any
) -> Any:
    (backend,) = backends(SchedulingSettings(section))

    def texts(given: dict[str, object] | None) -> dict[str, str]:
        return {f"hygon.com/{key}": str(value) for key, value in (given or {}).items()}

    return backend.demand(ContainerSpec("c", texts(limits), texts(requests)), PodSpec())


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"dcunum": 1}, (1, 0, 100, 100)),
        ({"dcunum": 1, "dcumem": 2000}, (1, 2000, 100, 100)),
        ({"dcunum": 1, "dcumem": 2000, "dcucores": 15}, (1, 2000, 100, 15)),
        ({"dcunum": 1, "dcumem": 1024, "dcucores": 1}, (1, 1024, 100, 1)),
        ({"dcunum": 2}, (2, 0, 100, 100)),
        ({"dcunum": 2, "dcucores": 100}, (2, 0, 100, 100)),
    ],
)
def test_requests_are_read(limits: dict[str, object], wanted: tuple[int, ...]) -> None:
    for found in (demand(limits), demand({}, limits)):
        assert (
            found.count,
            found.memory_mib,
            found.memory_percent,
            found.cores_percent,
        ) == wanted


def test_the_factor_counts_once() -> None:
    assert demand({"dcunum": 1, "dcumem": 4}, memoryFactor=512).memory_mib == 2048
    assert demand({"dcunum": 1, "dcumem": 4}, memoryFactor=0).memory_mib == 4


@pytest.mark.parametrize(
    "limits",
    [
        {"dcunum": 2, "dcumem": 100},
        {"dcunum": 2, "dcucores": 50},
        {"dcunum": 1, "dcucores": 0},
        {"dcunum": "1.5"},
        {"dcunum": 10**9},
        {"dcunum": 1, "dcumem": -1},
        {"dcunum": 1, "dcumem": "16Ti"},
    ],
)
def test_what_nothing_can_hand_over_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=r"hygon\.com/"):
        demand(limits)


def test_types_are_chosen_by_a_part_of_their_name() -> None:
    (backend,) = backends(SchedulingSettings())
    found = selectors({"hygon.com/use-dcutype": "K100, z100l ,"}, backend.keys)
    assert found.use_types == {"k100", "z100l"}


def placed(
    limits: dict[str, object], cards: list[NodeDevice], annotations: dict[str, str] | None = None
) -> Placement | Unfit:
    (backend,) = backends(SchedulingSettings())
    texts = {f"hygon.com/{key}": str(value) for key, value in limits.items()}
    pod = PodSpec("n", "p", "u", annotations or {}, (ContainerSpec("c", texts, texts),))
    view = NodeView(NodeFacts("n"), {"DCU": tuple(map(Card, cards))})
    return place(view, pod, asks(pod, [backend]), {"DCU": backend}, Policy.SPREAD, Policy.BINPACK)


def registered(number: int, model: str, mib: int = 32768) -> NodeDevice:
    return NodeDevice(
        uuid=f"DCU-{number}", index=number, count=4, memory=mib, cores=100,
        type=f"DCU-{model}", healthy=True,
    )  # fmt: skip


CARDS = [registered(0, "K100_AI"), registered(1, "Z100L"), registered(2, "K500SM")]


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ({"hygon.com/use-dcutype": "k100"}, "DCU-0"),
        ({"hygon.com/use-dcutype": "Z100L , none"}, "DCU-1"),
        ({"hygon.com/nouse-dcutype": "K100,Z100"}, "DCU-2"),
        ({"hygon.com/use-dcutype": "", "hygon.com/use-gpuuuid": "DCU-1"}, "DCU-1"),
        ({"hygon.com/nouse-gpuuuid": "DCU-2,DCU-1"}, "DCU-0"),
        ({"hygon.com/use-dcutype": "Z100", "hygon.com/nouse-gpuuuid": "DCU-1"}, None),
    ],
)
def test_pods_choose_cards_by_a_part_of_their_type_or_by_id(
    annotations: dict[str, str], wanted: str | None
) -> None:
    found = placed({"dcunum": 1}, CARDS, annotations)
    if wanted is None:
        assert isinstance(found, Unfit)
        assert {r.obstacle for r in found.reasons} == {Obstacle.TYPE, Obstacle.UUID}
    else:
        assert isinstance(found, Placement)
        assert found.containers["DCU"][0][0].uuid == wanted


def test_a_part_goes_to_a_card_that_can_be_divided_so() -> None:
    found = placed({"dcunum": 1, "dcucores": 1}, CARDS)
    assert isinstance(found, Placement)
    assert found.containers["DCU"][0][0].uuid == "DCU-0"
    found = placed({"dcunum": 1, "dcucores": 1}, CARDS[1:])
    assert isinstance(found, Unfit)
    assert {r.card: (r.obstacle, r.detail) for r in found.reasons} == {
        "DCU-1": (Obstacle.CORES, "asks 1% of 60 compute units, which is not one"),
        "DCU-2": (
            Obstacle.VENDOR_RULE,
            "its compute units are not known: only whole, or hygon.computeUnits.K500SM",
        ),
    }


def test_memory_alone_takes_all_compute_units() -> None:
    found = placed({"dcunum": 1, "dcumem": 2000}, [CARDS[0]])
    assert isinstance(found, Placement)
    (device,) = found.containers["DCU"][0]
    assert (device.memory, device.cores) == (2000, 100)


def test_the_golden_register_of_one_card() -> None:
    (device,) = register.decode("test-0,1,1024,100,DCU,0,true,0,test:")
    assert (device.uuid, device.count, device.memory, device.mode) == ("test-0", 1, 1024, "test")
    for text in ("", "a,b,c,d,e:"):
        with pytest.raises(AnnotationError):
            register.decode(text)


# --- the whole way --------------------------------------------------------------------------------


@pytest.fixture
def hygon(machine: Callable[..., Any], built: Callable[..., Path], lines: Any) -> Any:
    scenario = "".join(lines.card(serial=f"TR3A38000811060{i}") for i in range(2))
    made = machine(
        "hygon", built("rocm_smi", "librocm_smi64.so.2"), LIBRARY, "FAKE_ROCM_SMI", scenario
    )
    for number in range(2):
        drm(made.host, 0x33 + number, number)
    around(made.host)
    return made


@pytest.mark.parametrize(
    ("mode", "habit"),
    [(LOCKED, Habit.HAMI28), (DEFERRED, Habit.OURS), (DEFERRED, Habit.HAMI28)],
    ids=["locked", "deferred", "deferred-hami28"],
)
async def test_a_virtual_dcu_reaches_its_container(
    hygon: Any, doc_pods: Any, mode: dict[str, Any], habit: Habit
) -> None:
    await hygon.start(mode, COUNT)
    annotations = hygon.cluster.node_annotations()
    assert annotations["hami.io/node-dcu-register"] == (
        "DCU-TR3A380008110600,4,65520,100,DCU-K100_AI,0,true,0,hami:"
        "DCU-TR3A380008110601,4,65520,100,DCU-K100_AI,1,true,1,hami:"
    )
    assert len(register.decode(annotations["hami.io/node-dcu-register"])) == 2
    assert annotations["hami.io/node-handshake-dcu"].startswith("Reported")
    outcome = await hygon.run(doc_pods("hygon")["part"], habit)
    told = hygon.cluster.pod_annotations("part")
    assert told["hami.io/dcu-devices-allocated"] == "DCU-TR3A380008110601,DCU,2000,15:;"
    seen = hygon.seen(outcome.containers["main"])
    uid = hygon.cluster.server.get("pods", "part", "default")["metadata"]["uid"]
    name = f"{uid}_main_1_0_0_{'0' * 11}3ffff_{'0' * 16}"
    assert seen["mounts"] == {
        "/etc/vdev/docker/": f"/usr/local/vgpu/dcu/{name}",
        "/opt/hygondriver": "/opt/dtk",
        "/opt/hyhal": "/opt/hyhal",
    }
    assert seen["devices"] == ["/dev/dri/card1", "/dev/dri/renderD129", "/dev/kfd", "/dev/mkfd"]
    text = (hygon.host / "usr/local/vgpu/dcu" / name / "vdev0.conf").read_text()
    assert "cu_count: 18\nmem: 2000 MiB\ndevice_id: 0\n" in text


def parts(machine: Any) -> list[str]:
    """The names of the node's virtual DCUs."""
    root = machine.host / "usr/local/vgpu/dcu"
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def mask(machine: Any, config: Any) -> int:
    """The compute units of a container."""
    vdev = parsed(Path(machine.seen(config)["mounts"]["/etc/vdev/docker/"]).name)
    assert vdev is not None
    return vdev.mask


@pytest.mark.parametrize("mode", [LOCKED, LOCKED_CDI, DEFERRED], ids=["env", "cdi", "deferred"])
async def test_two_containers_of_a_card_have_units_of_their_own(
    hygon: Any, doc_pods: Any, mode: dict[str, Any]
) -> None:
    await hygon.start(mode, COUNT)
    outcome = await hygon.run(doc_pods("hygon")["two-parts"], Habit.HAMI28, Policy.BINPACK)
    told = hygon.cluster.pod_annotations("two-parts")["hami.io/dcu-devices-allocated"]
    uuid = "DCU-TR3A380008110600"
    assert told == f"{uuid},DCU,2000,15:;{uuid},DCU,4000,30:;"
    first, second = (mask(hygon, config) for config in outcome.containers.values())
    assert (first, second) == ((1 << 18) - 1, ((1 << 36) - 1) << 18)
    assert sorted(path.name for path in (hygon.host / "etc/vdev").iterdir()) == [
        "vdev0.conf",
        "vdev1.conf",
    ]
    # The agent is asked again at every start, and finds what it made.
    uid = hygon.cluster.server.get("pods", "two-parts", "default")["metadata"]["uid"]
    before = parts(hygon)
    again = await hygon.cluster.kubelet.restart_container(uid, "first")
    assert mask(hygon, again) == first
    assert parts(hygon) == before


async def test_only_the_second_container_of_a_pod_has_a_part(hygon: Any, doc_pods: Any) -> None:
    await hygon.start(LOCKED, COUNT)
    manifest = doc_pods("hygon")["part"]
    manifest["spec"]["containers"].insert(0, {"name": "none", "image": "x"})
    outcome = await hygon.run(manifest, Habit.HAMI28)
    told = hygon.cluster.pod_annotations("part")
    assert told["hami.io/dcu-devices-allocated"] == ";DCU-TR3A380008110601,DCU,2000,15:;"
    assert "_main_" in hygon.seen(outcome.containers["main"])["mounts"]["/etc/vdev/docker/"]
    assert hygon.seen(outcome.containers["none"])["mounts"] == {}


async def test_an_init_container_and_the_others_get_the_room_of_one(
    hygon: Any, doc_pods: Any
) -> None:
    """Together they would be more than a card has."""
    await hygon.start(DEFERRED, COUNT)
    manifest = doc_pods("hygon")["part"]
    (main,) = manifest["spec"]["containers"]
    manifest["metadata"]["annotations"] = {"hygon.com/use-gpuuuid": "DCU-TR3A380008110601"}
    for container in (main, init := {**main, "name": "init"}):
        container["resources"] = {"limits": {COUNT: 1, "hygon.com/dcucores": 60}}
    manifest["spec"]["initContainers"] = [init]
    outcome = await hygon.run(manifest)
    first, second = (mask(hygon, config) for config in outcome.containers.values())
    assert first == second == (1 << 72) - 1
    assert len(parts(hygon)) == 2


async def test_a_part_that_was_told_and_is_gone_is_not_replaced_in_silence(
    hygon: Any, doc_pods: Any
) -> None:
    """The answer to Allocate names a directory. Were it another now, the runtime would mount an
    empty one, and the container see the whole card.
    """
    await hygon.start(LOCKED, COUNT)
    name = await hygon.create(doc_pods("hygon")["part"], Habit.HAMI28)
    assert await hygon.cluster.admit("default", name) is None
    (was,) = parts(hygon)
    hygon.put(f"etc/vdev/{'vdev0.conf'}", "a stranger's by now")
    shutil.rmtree(hygon.host / "usr/local/vgpu/dcu" / was)
    with pytest.raises(StartError, match="is gone and was made again"):
        await hygon.cluster.start("default", name, "main")


async def test_parts_of_several_cards_from_another_scheduler_are_refused_and_none_is_made(
    hygon: Any, doc_pods: Any
) -> None:
    await hygon.start(LOCKED, COUNT)
    manifest = doc_pods("hygon")["two-cards"]
    hygon.cluster.create(manifest)
    cards = [(f"DCU-TR3A38000811060{i}", 2000, 100) for i in range(2)]
    await hygon.cluster.place(
        Habit.HAMI28, VENDORS["DCU"], "two-cards", devices(VENDORS["DCU"], *cards)
    )
    outcome = await hygon.cluster.run("default", "two-cards")
    assert "a container has one virtual DCU or whole cards" in outcome.failure
    assert parts(hygon) == []
    await hygon.cluster.settled(lambda: MUTEX_LOCK not in hygon.cluster.node_annotations())


async def test_schedulers_hear_of_a_card_that_fails_and_of_its_recovery(hygon: Any) -> None:
    await hygon.start(DEFERRED, COUNT)
    scenario = hygon.scenario.read_text()

    def healthy() -> list[bool]:
        text = hygon.cluster.node_annotations()["hami.io/node-dcu-register"]
        return [device.healthy for device in register.decode(text)]

    assert healthy() == [True, True]
    hygon.scenario.write_text(scenario + "fault|call=rsmi_dev_memory_total_get|card=1|status=3\n")
    await hygon.cluster.settled(lambda: healthy() == [True, False], 15.0)
    hygon.scenario.write_text(scenario)
    await hygon.cluster.settled(lambda: healthy() == [True, True], 15.0)


async def test_whole_cards_have_no_virtual_dcu(hygon: Any, doc_pods: Any) -> None:
    await hygon.start(DEFERRED, COUNT)
    outcome = await hygon.run(doc_pods("hygon")["two-cards"])
    seen = hygon.seen(outcome.containers["main"])
    assert "/etc/vdev/docker/" not in seen["mounts"]
    assert "/dev/dri/card0" in seen["devices"]
    assert "/dev/dri/card1" in seen["devices"]


@pytest.mark.parametrize("mode", [LOCKED, DEFERRED], ids=["locked", "deferred"])
async def test_what_an_ended_pod_had_goes_after_a_while_and_a_living_ones_stays(
    hygon: Any, doc_pods: Any, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "MISSING_SECONDS", 0.5)
    monkeypatch.setattr(tidying, "ASKED_SECONDS", 0.5)
    await hygon.start(mode, COUNT)
    ends, lives = doc_pods("hygon")["part"], doc_pods("hygon")["part"]
    lives["metadata"]["name"] = "lives"
    await hygon.run(ends, Habit.HAMI28)
    outcome = await hygon.run(lives, Habit.HAMI28)
    assert len(parts(hygon)) == 2
    hygon.cluster.end("default", "part")
    await hygon.cluster.until(lambda: len(parts(hygon)) == 1, 15.0)
    path = hygon.seen(outcome.containers["main"])["mounts"]["/etc/vdev/docker/"]
    assert parts(hygon) == [Path(path).name]
    assert [p.name for p in (hygon.host / "etc/vdev").iterdir()] == ["vdev1.conf"]
    hygon.cluster.delete("default", "lives")
    await hygon.cluster.until(lambda: parts(hygon) == [], 15.0)
    assert list((hygon.host / "etc/vdev").iterdir()) == []


async def test_a_driver_that_stays_away_costs_no_living_container_its_part(
    hygon: Any, doc_pods: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "MISSING_SECONDS", 0.4)
    monkeypatch.setattr(tidying, "ASKED_SECONDS", 0.4)
    await hygon.start(DEFERRED, COUNT, health_forget="1s", probe_interval="200ms")
    await hygon.run(doc_pods("hygon")["part"])
    (name,) = parts(hygon)
    scenario = hygon.scenario.read_text()
    hygon.scenario.write_text("")  # the driver lists no card any more
    runtime = hygon.agent.runtimes["hygon"]
    await hygon.cluster.until(lambda: runtime.word == "", 15.0)
    looks = [runtime._holdings]
    while len(looks) < 7:
        await hygon.cluster.until(lambda: runtime._holdings is not looks[-1])
        looks.append(runtime._holdings)
    assert parts(hygon) == [name]
    hygon.scenario.write_text(scenario)
    await hygon.cluster.until(lambda: runtime.word == "DCU", 15.0)
    hygon.cluster.end("default", "part")
    await hygon.cluster.until(lambda: parts(hygon) == [], 15.0)


async def test_alone_a_share_is_a_virtual_dcu_of_its_allocation(hygon: Any) -> None:
    await hygon.start(STANDALONE, COUNT)
    hygon.cluster.create(
        {
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {
                "containers": [{"name": "c", "image": "x", "resources": {"limits": {COUNT: "1"}}}]
            },
        }
    )
    outcome = await hygon.cluster.run("default", "p")
    assert outcome.failure == ""
    mount = hygon.seen(outcome.containers["c"])["mounts"]["/etc/vdev/docker/"]
    text = (hygon.host / mount.lstrip("/") / "vdev0.conf").read_text()
    assert "cu_count: 30\nmem: 16380 MiB\n" in text
