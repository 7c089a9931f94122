"""What pods may ask, and which NPUs they get: the tables of ascend-and-mock.md A.3, A.4, D.1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deviceplugin.api.hami import poddevices
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.observe import Held, NodeView, cards_with
from deviceplugin.placement.request import asks
from deviceplugin.placement.write import decision
from deviceplugin.vendor.scheduling import (
    Card,
    ContainerDevice,
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
from deviceplugin.vendors.ascend.chips import DEFAULT_CHIPS, Chip
from deviceplugin.vendors.ascend.scheduling import AscendBackend, backends

CHIPS = {chip.word: chip for chip in DEFAULT_CHIPS}
BACKENDS = {b.keys.common_word: b for b in backends(SchedulingSettings())}


def backend(word: str, **changed: Any) -> AscendBackend:
    """The backend of a chip, with other figures."""
    counted = frozenset(chip.resource for chip in DEFAULT_CHIPS)
    return AscendBackend(replace(CHIPS[word], **changed), counted)


def container(
    word: str, count: Any = None, memory: Any = None, name: str = "c", **more: Any
) -> ContainerSpec:
    limits = {}
    if count is not None:
        limits[f"huawei.com/{word}"] = str(count)
    if memory is not None:
        limits[f"huawei.com/{word}-memory"] = str(memory)
    return ContainerSpec(name, limits, **more)


POD = PodSpec("default", "p", "u")
RUNTIME = Path(__file__).with_name("runtime.py")


def test_one_backend_a_word() -> None:
    assert sorted(BACKENDS) == sorted(CHIPS)
    assert BACKENDS["Ascend310P"].resources.names() == (
        "huawei.com/Ascend310P", "huawei.com/Ascend310P-memory", "huawei.com/Ascend310P-core",
    )  # fmt: skip


# --- admission ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "count", "memory", "written"),
    [
        ("Ascend910A", 1, 20000, 32768),
        ("Ascend910A", 1, 128, 2184),
        ("Ascend910A", 1, None, 32768),
        ("Ascend910A", 1, 0, 2184),
        ("Ascend910A", 2, None, 32768),
        ("Ascend910A", 2, 17477, 32768),
        ("Ascend910B4", 1, 8000, 8192),
        ("Ascend910B4-1", 1, 16385, 32768),
        ("Ascend310P", 1, 22000, 21527),
        ("Ascend910C", 1, 16384, 16384),
        ("Ascend910C", 3, None, 65536),
    ],
)
def test_memory_becomes_that_of_the_template(
    word: str, count: int, memory: Any, written: int
) -> None:
    found = BACKENDS[word].admit(container(word, count, memory), POD)
    assert found.found
    assert found.resources == {f"huawei.com/{word}-memory": str(written)}


@pytest.mark.parametrize(
    ("word", "count", "memory", "why"),
    [
        ("Ascend910A", 2, 8738, "vNPU is not supported for multiple devices: 2 of"),
        ("Ascend910A", 2, 40000, "huawei.com/Ascend910A-memory 40000 is invalid: a card has 32768"),
        ("Ascend310P", 1, 24577, "24577 is invalid: a card has 24576; its unit is 1 MiB"),
        ("Ascend910B4", 1, "16Gi", "16Gi is invalid: a card has 32768; its unit is 1 MiB, and no suffix is needed"),
        ("Ascend910B4", 1, -1, "write a whole number"),
        ("Ascend910B4", -1, None, "write a whole number"),
        ("Ascend910B4", 1, "0.5", "write a whole number"),
        ("Ascend910B4", "1e30", None, "at most"),
        ("Ascend910B4", None, 8192, "asks for huawei.com/Ascend910B4-memory of no card: add huawei.com/Ascend910B4: 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["limits", "requests"])
def test_what_can_never_be_served_is_refused_at_both_doors(
    word: str, count: Any, memory: Any, why: str, where: str
) -> None:
    """Requests alone too, which upstream turns into a whole card (E.1 no. 15)."""
    asked = container(word, count, memory)
    if where == "requests":
        asked = ContainerSpec("c", {}, asked.limits)
    for door in (BACKENDS[word].admit, BACKENDS[word].demand):
        with pytest.raises(RefusedError) as error:
            door(asked, POD)
        assert why in str(error.value)
        assert "container c" in str(error.value)


def test_a_container_without_npus_is_left_alone() -> None:
    for asked in (container("Ascend910A"), container("Ascend910A", 0), container("Ascend910B4", 1)):
        found = BACKENDS["Ascend910A"].admit(asked, POD)
        assert (found.found, found.resources, found.env) == (False, {}, {})
        assert BACKENDS["Ascend910A"].demand(asked, POD) is None


def test_the_runtime_class_goes_to_pods_that_ask() -> None:
    one = backend("Ascend910B4", runtime_class="ascend")
    assert one.admit(container("Ascend910B4", 1), POD).runtime_class == "ascend"
    assert one.admit(container("Ascend910A", 1), POD).runtime_class == ""


def test_images_with_a_list_of_their_own_see_nothing_where_nothing_was_asked() -> None:
    one = backend("Ascend910B4", overwrite_env=True)
    assert one.admit(container("Ascend910B4"), POD).env == {"ASCEND_VISIBLE_DEVICES": ""}
    # An NPU of another sort is asked for: an empty list would hide that.
    assert one.admit(container("Ascend310P", 1), POD).env == {}
    assert BACKENDS["Ascend910B4"].admit(container("Ascend910B4"), POD).env == {}


@pytest.mark.parametrize("core", [20, 100])
def test_cores_belong_to_soft_slicing(core: int) -> None:
    asked = ContainerSpec(
        "c", {"huawei.com/Ascend910B4": "1", "huawei.com/Ascend910B4-core": str(core)}
    )
    with pytest.raises(RefusedError, match=r"only supported in hami-core \(soft split\) mode"):
        BACKENDS["Ascend910B4"].admit(asked, POD)


def test_no_cores_are_fine_and_a_pod_for_soft_slicing_is_not() -> None:
    asked = ContainerSpec("c", {"huawei.com/Ascend910B4": "1", "huawei.com/Ascend910B4-core": "0"})
    assert BACKENDS["Ascend910B4"].admit(asked, POD).found
    soft = replace(POD, annotations={"huawei.com/vnpu-mode": "hami-core"})
    with pytest.raises(RefusedError, match="vnpu-mode: hami-core is only supported"):
        BACKENDS["Ascend910B4"].admit(asked, soft)
    other = replace(POD, annotations={"huawei.com/vnpu-mode": ""})
    assert BACKENDS["Ascend910B4"].admit(asked, other).found


@pytest.mark.parametrize(("count", "becomes"), [(1, 2), (2, 2), (4, 4)])
def test_dies_of_a_super_pod_come_in_pairs(count: int, becomes: int) -> None:
    one = backend("Ascend910C", super_pod=True)
    stored = one.admit(container("Ascend910C", count), POD)
    assert int(stored.resources.get("huawei.com/Ascend910C", count)) == becomes


def test_dies_of_a_super_pod_are_not_single() -> None:
    one = backend("Ascend910C", super_pod=True)
    with pytest.raises(RefusedError, match=r"Ascend910C device request must be 1 or 2\*n, got 3"):
        one.admit(container("Ascend910C", 3), POD)
    with pytest.raises(RefusedError, match="multiple devices: 2 of"):
        one.admit(container("Ascend910C", 1, 16384), POD)
    with pytest.raises(RefusedError, match="got 1"):  # what no webhook has doubled stays what it is
        one.demand(container("Ascend910C", 1), POD)


# --- requests ------------------------------------------------------------------------------------


def test_a_request_in_figures() -> None:
    whole = BACKENDS["Ascend910A"].demand(container("Ascend910A", 2), POD)
    assert whole is not None
    assert (whole.count, whole.memory_mib, whole.memory_percent, whole.cores_percent) == (
        2,
        0,
        100,
        0,
    )
    part = BACKENDS["Ascend910A"].demand(container("Ascend910A", 1, 8738), POD)
    assert part is not None
    assert (part.count, part.memory_mib, part.cores_percent) == (1, 8738, 0)


@pytest.mark.parametrize(("factor", "memory"), [(10, 2184), (100, 17476), (1, 2184)])
def test_the_factor_counts_once_through_webhook_and_scheduler(factor: int, memory: int) -> None:
    """128 units; upstream multiplies what it has rounded (E.1 no. 14)."""
    one = backend("Ascend910A", memory_factor=factor)
    item = {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "resources": {
            "limits": {"huawei.com/Ascend910A": "1", "huawei.com/Ascend910A-memory": "128"}}}]},
    }  # fmt: skip
    stored, _ = admitted(item, [one])
    limits = stored["spec"]["containers"][0]["resources"]["limits"]
    demand = one.demand(ContainerSpec("c", limits), POD)
    assert demand is not None
    assert demand.memory_mib == memory
    assert int(limits["huawei.com/Ascend910A-memory"]) == memory // factor


@given(st.sampled_from(DEFAULT_CHIPS), st.integers(1, 30000), st.integers(0, 70000))
@example(CHIPS["Ascend310P"], 12000, 2)  # the card in whole units would be a template
@example(CHIPS["Ascend310P"], 22000, 1)  # and here nothing
def test_admission_never_changes_what_is_asked(chip: Chip, factor: int, units: int) -> None:
    """The template is the same before and after, and a second webhook changes nothing."""
    one = backend(chip.word, memory_factor=factor)
    asked = container(chip.word, 1, units)
    try:
        before = one.demand(asked, POD)
    except RefusedError:
        with pytest.raises(RefusedError):
            one.admit(asked, POD)
        return
    stored = ContainerSpec("c", {**asked.limits, **one.admit(asked, POD).resources})
    assert one.demand(stored, POD) == before
    assert {**stored.limits, **one.admit(stored, POD).resources} == stored.limits
    assert before is not None
    assert before.memory_mib >= min(units * factor, chip.memory_mib)


# --- cards ---------------------------------------------------------------------------------------


def device(
    number: int, word: str = "Ascend910A", network: int | None = 0, **more: Any
) -> NodeDevice:
    chip = CHIPS[word]
    values: dict[str, Any] = {
        "uuid": f"dev-{number}", "index": number, "count": chip.count, "memory": chip.memory_mib,
        "cores": chip.ai_core, "type": word, "healthy": True,
        "custom": {} if network is None else {"NetworkID": network},
    }  # fmt: skip
    return NodeDevice(**{**values, **more})


def node(*devices: NodeDevice) -> NodeView:
    word = devices[0].type
    return NodeView(NodeFacts("n1"), {word: tuple(Card(d) for d in devices)})


def placed(
    view: NodeView, *containers: ContainerSpec, word: str = "Ascend910A", policy: Policy = Policy.SPREAD,
    one: AscendBackend | None = None, pod: PodSpec = POD,
) -> Placement | Unfit:  # fmt: skip
    used = one or BACKENDS[word]
    spec = replace(pod, containers=containers)
    return place(view, spec, asks(spec, [used]), {word: used}, policy, Policy.BINPACK)


def names(found: Placement | Unfit, position: int = 0) -> list[str]:
    assert isinstance(found, Placement), found
    (devices,) = found.containers.values()
    return [d.uuid for d in devices[position]]


def reasons(found: Placement | Unfit) -> list[str]:
    assert isinstance(found, Unfit), found
    return [r.obstacle.value for r in found.reasons]


def test_of_equal_npus_the_last_is_taken() -> None:
    assert names(placed(node(device(0), device(1)), container("Ascend910A", 1))) == ["dev-1"]


def test_cards_of_one_network_go_together() -> None:
    view = node(device(0, network=0), device(1, network=1), device(2, network=1))
    assert names(placed(view, container("Ascend910A", 2))) == ["dev-2", "dev-1"]
    assert names(placed(view, container("Ascend910A", 3))) == ["dev-2", "dev-1", "dev-0"]


def test_networks_count_only_where_every_card_has_one() -> None:
    networks = (0, 0, None, 1)
    view = node(*(device(n, network=network) for n, network in enumerate(networks)))
    assert names(placed(view, container("Ascend910A", 2))) == ["dev-3", "dev-2"]


def test_the_largest_group_that_is_free_comes_first() -> None:
    cards = [device(n, network=n // 4) for n in range(8)]
    view = node(*cards)
    view = view.with_cards("Ascend910A", cards_with(view.cards["Ascend910A"], [
        Held("o", "n/o", (ContainerDevice("dev-7", "Ascend910A", 32768, 0),)),
    ]))  # fmt: skip
    assert names(placed(view, container("Ascend910A", 4))) == ["dev-3", "dev-2", "dev-1", "dev-0"]
    assert names(placed(view, container("Ascend910A", 5))) == [
        "dev-3",
        "dev-2",
        "dev-1",
        "dev-0",
        "dev-6",
    ]


def test_the_310p_knows_no_networks() -> None:
    view = node(device(0, "Ascend310P", 0), device(1, "Ascend310P", 1), device(2, "Ascend310P", 0))
    assert names(placed(view, container("Ascend310P", 2), word="Ascend310P")) == ["dev-2", "dev-1"]


@pytest.mark.parametrize(
    ("indices", "count", "chosen"),
    [
        ([0, 1, 2, 4, 6], 4, None),
        ([0, 2], 2, None),
        ([0, 1], 2, ["dev-1", "dev-0"]),
        ([0, 1, 2, 3], 4, ["dev-3", "dev-2", "dev-1", "dev-0"]),
        ([0, 2, 3, 5], 2, ["dev-3", "dev-2"]),
        ([0, 1, 2, 3], 3, ["dev-3", "dev-2", "dev-1"]),
        ([0, 2], 1, ["dev-2"]),
    ],
)
def test_dies_come_in_whole_modules(
    indices: list[int], count: int, chosen: list[str] | None
) -> None:
    view = node(*(device(n, "Ascend910C", None) for n in indices))
    found = placed(view, container("Ascend910C", count), word="Ascend910C")
    if chosen is None:
        assert reasons(found)[-1] == "AllocatedCardsInsufficientRequest"
    else:
        assert names(found) == chosen


def test_too_few_that_fit_are_counted() -> None:
    view = node(device(0), device(1), device(2, healthy=False))
    found = placed(view, container("Ascend910A", 3))
    assert reasons(found) == ["CardNotHealth", "AllocatedCardsInsufficientRequest"]
    assert isinstance(found, Unfit)
    assert found.reasons[-1].detail == "asks 3 cards, 2 serve"


@pytest.mark.parametrize(
    ("other", "annotations", "obstacle"),
    [
        ({"healthy": False}, {}, Obstacle.HEALTH),
        ({}, {"hami.io/use-Ascend910A-uuid": "dev-9"}, Obstacle.UUID),
        ({}, {"hami.io/no-use-Ascend910A-uuid": " dev-0 ,dev-9"}, Obstacle.UUID),
        ({"memory": 2000}, {}, Obstacle.MEMORY),
        ({"count": 0}, {}, Obstacle.SLOTS),
    ],
)
def test_a_card_that_does_not_serve_says_why(
    other: dict[str, Any], annotations: dict[str, str], obstacle: Obstacle
) -> None:
    found = placed(
        node(device(0, **other)), container("Ascend910A", 1, 2184),
        pod=replace(POD, annotations=annotations),
    )  # fmt: skip
    assert reasons(found) == [obstacle.value]


def test_words_are_compared_whole() -> None:
    """A request for a 910B4 does not see a 910B4-1 (A.3.5)."""
    view = node(device(0, "Ascend910B4-1"))
    found = placed(view, container("Ascend910B4", 1), word="Ascend910B4")
    assert reasons(found) == ["NodeInsufficientDevice"]


def fill(word: str, memory: int) -> tuple[int, Unfit]:
    """How many such parts fit on one card, and why the next does not."""
    view, held = node(device(0, word)), []
    for number in range(100):
        now = view.with_cards(word, cards_with(view.cards[word], held))
        pod = replace(POD, name=f"p{number}", uid=str(number))
        found = placed(now, container(word, 1, memory), word=word, pod=pod)
        if isinstance(found, Unfit):
            return number, found
        held.append(Held(str(number), f"n/p{number}", found.containers[word][0]))
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("word", "memory", "count", "why"),
    [
        ("Ascend910A", 2184, 15, "all 15 shares are taken"),
        ("Ascend910A", 17476, 1, "asks 17476 MiB, 15292 of 32768 are free"),
        ("Ascend910B2", 8192, 6, "template vir03_1c_8g takes 1 AI CPUs, 6 of 6 are taken"),
        ("Ascend910B2", 32768, 2, "asks 32768 MiB, 0 of 65536 are free"),
        ("Ascend910B4", 8192, 4, "all 4 shares are taken"),
        ("Ascend910B4", 16384, 2, "asks 16384 MiB, 0 of 32768 are free"),
        ("Ascend310P", 3072, 7, "all 7 shares are taken"),
        ("Ascend310P", 12288, 1, "asks 12288 MiB, 9239 of 21527 are free"),
    ],
)
def test_a_card_takes_as_many_parts_as_its_driver_makes(
    word: str, memory: int, count: int, why: str
) -> None:
    found, unfit = fill(word, memory)
    assert found == count
    assert [r.detail for r in unfit.reasons] == [why]


def test_ai_cores_count_where_memory_would_do() -> None:
    """A template that has more of the cores than of the memory."""
    lopsided = replace(
        CHIPS["Ascend910A"],
        templates=(replace(CHIPS["Ascend910A"].templates[0], ai_core=12),),
    )
    one = AscendBackend(lopsided, frozenset())
    three = [container("Ascend910A", 1, 2184, name=f"c{n}") for n in range(3)]
    assert len(names(placed(node(device(0)), *three[:2], one=one), 1)) == 1
    found = placed(node(device(0)), *three, one=one)
    assert isinstance(found, Unfit)
    assert found.reasons[0].detail == "template vir02 takes 12 AI cores, 24 of 30 are taken"
    assert found.container == "c2"


def test_an_init_container_is_over_before_the_others_begin() -> None:
    view = node(device(0, "Ascend910B2"))
    part = (ContainerDevice("dev-0", "Ascend910B2", 32768, 0),)
    held = [Held("u", "n/p", part, init=True), Held("u", "n/p", part)]
    view = view.with_cards("Ascend910B2", cards_with(view.cards["Ascend910B2"], held))
    assert names(placed(view, container("Ascend910B2", 1, 32768), word="Ascend910B2")) == ["dev-0"]


@pytest.mark.parametrize(
    ("networks", "score"), [([0, 0], 10.0), ([0, 0, 0, 1], 7.5), ([0, 1], 5.0), ([0, None], 0.0)]
)
def test_a_node_is_better_for_cards_of_one_network(
    networks: list[int | None], score: float
) -> None:
    cards = [Card(device(n, network=network)) for n, network in enumerate(networks)]
    given = [ContainerDevice(c.uuid, "Ascend910A", 32768, 0) for c in cards]
    for policy in Policy:
        found = BACKENDS["Ascend910A"].score(NodeFacts("n"), cards, [[], given], POD, policy)
        assert found == score
    assert (
        BACKENDS["Ascend910A"].score(NodeFacts("n"), cards, [given, given], POD, Policy.SPREAD)
        == 2 * score
    )
    assert BACKENDS["Ascend310P"].score(NodeFacts("n"), cards, [given], POD, Policy.SPREAD) == 0


# --- what is written -----------------------------------------------------------------------------


def written(view: NodeView, word: str, *containers: ContainerSpec) -> dict[str, str]:
    pod = replace(POD, containers=containers)
    wanted = asks(pod, [BACKENDS[word]])
    found = place(view, pod, wanted, {word: BACKENDS[word]}, Policy.SPREAD, Policy.BINPACK)
    assert isinstance(found, Placement), found
    return decision(found, view, pod, wanted, BACKENDS, 1_737_000_000 * 10**9, init_listed=False)


def test_a_decision_to_the_letter() -> None:
    view = node(device(0, "Ascend910B4", uuid="A1B2"))
    found = written(view, "Ascend910B4", container("Ascend910B4", 1, 8000), ContainerSpec("other"))
    assert found == {
        "hami.io/vgpu-node": "n1",
        "hami.io/vgpu-time": "1737000000",
        "hami.io/Ascend910B4-devices-to-allocate": "A1B2,Ascend910B4,8192,0:;;",
        "hami.io/Ascend910B4-devices-allocated": "A1B2,Ascend910B4,8192,0:;;",
        "huawei.com/Ascend910B4": '[{"UUID":"A1B2","temp":"vir05_1c_8g"}]',
        "predicate-time": "1737000000",
    }


def test_whole_cards_have_no_template_in_the_decision() -> None:
    found = written(node(device(0), device(1)), "Ascend910A", container("Ascend910A", 2))
    assert found["huawei.com/Ascend910A"] == '[{"UUID":"dev-1"},{"UUID":"dev-0"}]'
    assert found["hami.io/Ascend910A-devices-allocated"] == (
        "dev-1,Ascend910A,32768,0:dev-0,Ascend910A,32768,0:;"
    )


# --- never more than there is, and never what the driver would refuse ----------------------------


@settings(max_examples=60)
@given(
    st.sampled_from(DEFAULT_CHIPS),
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 66000) | st.none()), max_size=24),
    st.sampled_from(list(Policy)),
)
def test_what_is_promised_can_be_made(
    chip: Chip, wishes: Sequence[tuple[int, int | None]], policy: Policy
) -> None:
    word, one = chip.word, BACKENDS[chip.word]
    view = node(*(device(n, word) for n in range(2)))
    held: list[Held] = []
    for number, (count, memory) in enumerate(wishes):
        now = view.with_cards(word, cards_with(view.cards[word], held))
        pod = replace(POD, name=f"p{number}", uid=str(number))
        try:
            found = placed(now, container(word, count, memory), word=word, policy=policy, pod=pod)
        except RefusedError:
            continue
        if isinstance(found, Unfit):
            assert found.reasons
            continue
        devices = found.containers[word][0]
        assert len({d.uuid for d in devices}) == count
        held.append(Held(str(number), f"n/p{number}", devices))
        text = poddevices.encode([devices], one.keys.allocated)
        assert poddevices.decode(text, one.keys.allocated) == (devices,)
    for card in cards_with(view.cards[word], held):
        parts = [chip.part(tenant.memory_mib) for tenant in card.tenants]
        templates = [p.template for p in parts if p and p.template]
        assert len(templates) == len(parts) or len(parts) == 1
        assert card.used_memory_mib <= chip.memory_mib
        assert card.used <= chip.count
        assert sum(t.ai_core for t in templates) <= chip.ai_core
        assert not chip.ai_cpu or sum(t.ai_cpu for t in templates) <= chip.ai_cpu


def test_the_fake_driver_makes_whatever_is_promised(
    dcmi: Path, npus: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calls of ascend-docker-runtime: a card is filled by the scheduling half, and the driver
    has the vNPUs made and no AI CPU left in the end.
    """
    import subprocess
    import sys

    word, held = "Ascend910B2", []
    view = node(device(0, word))
    names_made = []
    for number, memory in enumerate((8192, 16384, 8192, 8192, 8192, 8192, 8192)):
        now = view.with_cards(word, cards_with(view.cards[word], held))
        pod = replace(POD, name=f"p{number}", uid=str(number))
        found = placed(now, container(word, 1, memory), word=word, pod=pod)
        if isinstance(found, Unfit):
            continue
        held.append(Held(str(number), f"n/p{number}", found.containers[word][0]))
        part = CHIPS[word].part(memory)
        assert part is not None
        assert part.template is not None
        names_made.append(part.template.name)
    scenario = tmp_path / "scenario"
    scenario.write_text(npus(1, word))
    monkeypatch.setenv("FAKE_DCMI_SCENARIO", str(scenario))
    monkeypatch.setenv("FAKE_DCMI_STATE", str(tmp_path / "state"))
    done = subprocess.run(
        [sys.executable, str(RUNTIME), str(dcmi), json.dumps([*names_made, "vir03_1c_8g"])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "made": [212, 213, 214, 215, 216, 217, -8005], "cores": 3.0, "cpus": 0, "memory": 8192,
    }  # fmt: skip
