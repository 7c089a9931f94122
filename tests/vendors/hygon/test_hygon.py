"""Hygon: discovery, requests, and pods on their whole way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import tidying
from deviceplugin.api.hami import register
from deviceplugin.placement.rules import selectors
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
from deviceplugin.vendor.scheduling import ContainerSpec, PodSpec, RefusedError, SchedulingSettings
from deviceplugin.vendors.hygon.node import HygonNode
from deviceplugin.vendors.hygon.scheduling import backends

LIBRARY = "opt/hyhal/lib/librocm_smi64.so.2"
COUNT = "hygon.com/dcunum"
LOCKED = {"allocation": "scheduled-locked", "device_list_strategy": ("envvar",)}
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
STANDALONE = {"allocation": "standalone", "device_list_strategy": ("envvar",)}


def drm(root: Path, bus: int, number: int) -> None:
    """The kernel's nodes of a card."""
    directory = root / f"sys/bus/pci/devices/0000:{bus:02x}:00.0/drm"
    for name in (f"card{number}", f"renderD{128 + number}", "controlD64"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory.parent / "numa_node").write_text(f"{number}\n")


@pytest.fixture
def host(
    tmp_path: Path, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    def make(scenario: str, *flags: str) -> Path:
        target = tmp_path / LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(built("rocm_smi", "librocm_smi64.so.2", *flags).read_bytes())
        (tmp_path / "scenario").write_text(scenario)
        monkeypatch.setenv("FAKE_ROCM_SMI", str(tmp_path / "scenario"))
        for number in range(3):
            drm(tmp_path, 0x33 + number, 2 - number)
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


@pytest.mark.parametrize(
    ("serial", "flags", "uuid"),
    [
        ("N/A", (), "DCU-000000000000abc1"),
        ("", (), "DCU-000000000000abc1"),
        ("TR0", (), "DCU-000000000000abc1"),
        ("TR0", ("-DWITHOUT_UNIQUE_ID",), "DCU-0000-34-00.0"),
        (r"A:B,\xff", (), r"DCU-A-B--xff"),
    ],
)
def test_a_card_without_a_serial_number_of_its_own_still_has_a_name(
    host: Callable[..., Path],
    probed: Callable[..., Snapshot],
    lines: Any,
    serial: str,
    flags: tuple[str, ...],
    uuid: str,
) -> None:
    snapshot = probed("hygon", host(lines.card() + lines.card(serial=serial), *flags))
    assert [device.uuid for device in snapshot.devices] == ["DCU-TR0", uuid]
    assert bool(snapshot.problems) == (":" not in serial)


def test_health_is_told_in_both_directions(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    bad = lines.fault(call="rsmi_dev_memory_total_get", card=0, status=3)
    (device,) = probed("hygon", host(lines.card() + bad)).devices
    assert not device.healthy
    assert "a file cannot be read" in device.reason
    (device,) = probed("hygon", host(lines.card())).devices
    assert device.healthy


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ({"mib": 0}, "it reports no memory"),
        ({"bus": 0x33}, None),
    ],
)
def test_what_cannot_be_served_is_left_out_alone(
    host: Callable[..., Path],
    probed: Callable[..., Snapshot],
    lines: Any,
    scenario: dict[str, int],
    said: str | None,
) -> None:
    snapshot = probed("hygon", host(lines.card() + lines.card(**scenario)))
    assert len(snapshot.devices) == (1 if said else 2)
    assert said is None or said in snapshot.problems[0]


@pytest.mark.parametrize(("what", "cause"), [("hang", "deadline"), ("crash", "crash")])
def test_a_call_that_never_returns_costs_a_probe(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any, what: str, cause: str
) -> None:
    root = host(lines.card() + lines.fault(call="rsmi_dev_serial_number_get", do=what))
    with pytest.raises(DriverError, match=f"^{cause}: "):
        probed("hygon", root, deadline=3.0)


def test_a_driver_that_fails_to_start_says_why(
    host: Callable[..., Path], probed: Callable[..., Snapshot], lines: Any
) -> None:
    with pytest.raises(DriverError, match=r"rsmi_init answers 4 \(no permission\)"):
        probed("hygon", host(lines.fault(call="rsmi_init", status=4)))


# --- pure parts -----------------------------------------------------------------------------------


def card(model: str = "Z100L", units: str = "60") -> PhysicalDevice:
    return PhysicalDevice(
        "DCU-1", "0", model, 16384, attributes={"busId": "0000:33:00.0", "computeUnits": units}
    )


def node(**section: Any) -> HygonNode:
    return HygonNode(VendorSettings(section=section))


OWNER = Owner(COUNT, "alloc-1", "uid-1", "ns", "p", "main")


def share(memory: int | None, cores: int | None, **more: Any) -> Grant:
    given = {"device": card(), "sharing": Sharing.LIMITED, **more}
    return Grant(memory_mib=memory, cores_percent=cores, **given)


@pytest.mark.parametrize(
    ("memory", "cores", "units"),
    [(2000, 15, 9), (16384, 50, 30), (2000, 100, 60), (2000, None, 60), (16384, 1, 1)],
)
def test_a_part_of_a_card_is_a_virtual_dcu(memory: int, cores: int | None, units: int) -> None:
    request = node().slot_request(share(memory, cores), OWNER)
    assert request is not None
    assert (request["units"], request["memory_mib"], request["of"]) == (units, memory, 60)
    assert (request["holder"], request["container"]) == ("uid-1", "main")


@pytest.mark.parametrize(("memory", "cores"), [(None, None), (16384, 100), (20000, 100)])
def test_a_whole_card_is_none(memory: int | None, cores: int | None) -> None:
    assert node().slot_request(share(memory, cores), OWNER) is None


def test_alone_the_allocation_names_the_holder() -> None:
    request = node().slot_request(share(1000, 10), Owner(COUNT, "alloc-1"))
    assert request is not None
    assert request["holder"] == "alloc-1"


def test_a_card_of_unknown_size_is_not_divided_until_somebody_says_how() -> None:
    grant = share(1000, 10, device=card("6216", "0"))
    with pytest.raises(ValueError, match=r"hygon\.computeUnits\.6216"):
        node().slot_request(grant, OWNER)


def test_parts_of_several_cards_are_refused() -> None:
    with pytest.raises(ValueError, match="one virtual DCU or whole cards"):
        node().edits([share(1000, 10), share(16384, 100)], OWNER)


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
        ({"dcunum": 2}, (2, 0, 100, 100)),
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


# --- the whole way --------------------------------------------------------------------------------


@pytest.fixture
def hygon(machine: Callable[..., Any], built: Callable[..., Path], lines: Any) -> Any:
    scenario = "".join(lines.card(serial=f"TR3A38000811060{i}") for i in range(2))
    made = machine(
        "hygon", built("rocm_smi", "librocm_smi64.so.2"), LIBRARY, "FAKE_ROCM_SMI", scenario
    )
    for number in range(2):
        drm(made.host, 0x33 + number, number)
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


async def test_two_containers_of_a_card_have_units_of_their_own(hygon: Any, doc_pods: Any) -> None:
    await hygon.start(DEFERRED, COUNT)
    outcome = await hygon.run(doc_pods("hygon")["two-parts"])
    names = [
        hygon.seen(config)["mounts"]["/etc/vdev/docker/"].rsplit("_", 2)[1]
        for config in outcome.containers.values()
    ]
    masks = [int(name, 16) for name in names]
    assert len(masks) == 2
    cards = [
        hygon.seen(config)["mounts"]["/etc/vdev/docker/"].split("_")[2]
        for config in outcome.containers.values()
    ]
    assert cards[0] != cards[1] or masks[0] & masks[1] == 0


async def test_whole_cards_have_no_virtual_dcu(hygon: Any, doc_pods: Any) -> None:
    await hygon.start(DEFERRED, COUNT)
    outcome = await hygon.run(doc_pods("hygon")["two-cards"])
    seen = hygon.seen(outcome.containers["main"])
    assert "/etc/vdev/docker/" not in seen["mounts"]
    assert "/dev/dri/card0" in seen["devices"]
    assert "/dev/dri/card1" in seen["devices"]


async def test_what_an_ended_pod_had_goes_after_a_while(
    hygon: Any, doc_pods: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "MISSING_SECONDS", 0.5)
    monkeypatch.setattr(tidying, "ASKED_SECONDS", 0.5)
    await hygon.start(DEFERRED, COUNT)
    await hygon.run(doc_pods("hygon")["part"])
    root = hygon.host / "usr/local/vgpu/dcu"
    assert len(list(root.iterdir())) == 1
    hygon.cluster.end("default", "part")
    await hygon.cluster.until(lambda: not list(root.iterdir()), 15.0)
    assert list((hygon.host / "etc/vdev").iterdir()) == []


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
