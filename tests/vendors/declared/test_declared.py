"""Vendors by declaration, with the rows of metax-iluvatar-kunlunxin-hygon.md 6."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Placement, place
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.observe import node_view
from deviceplugin.placement.request import asks
from deviceplugin.placement.write import decision
from deviceplugin.testing.placing import scheduling_backends
from deviceplugin.testing.scheduling import Habit
from deviceplugin.vendor import DriverError, PhysicalDevice, Snapshot
from deviceplugin.vendor.declared.declaration import parse
from deviceplugin.vendor.scheduling import NodeFacts, Policy, RefusedError, Unfit

VENDORS = Path("vendors/declared").resolve()
DEFERRED = {"allocation": "scheduled-deferred", "device_list_strategy": ("cdi-cri",)}
GOOD = yaml.safe_load((VENDORS / "cambricon.yaml").read_text())


def pod(*containers: dict[str, object]) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "containers": [
                {
                    "name": f"c{i}",
                    "image": "x",
                    "resources": {"limits": {k: str(v) for k, v in limits.items()}},
                }
                for i, limits in enumerate(containers)
            ]
        },
    }


def placed(vendor: str, item: dict[str, Any], **capacity: int) -> Any:
    (backend,) = scheduling_backends(vendor)
    names = {
        "count": backend.resources.count,
        "memory": backend.resources.memory,
        "cores": backend.resources.cores,
    }
    facts = NodeFacts("n", {}, {}, {names[key]: value for key, value in capacity.items()})
    view, _ = node_view(facts, [backend])
    spec = pod_spec(admitted(item, [backend])[0])
    wanted = asks(spec, [backend])
    by_word = {backend.keys.common_word: backend}
    found = place(view, spec, wanted, by_word, Policy.SPREAD, Policy.BINPACK)
    if isinstance(found, Unfit):
        return found
    assert isinstance(found, Placement)
    return decision(found, view, spec, wanted, by_word, 42, init_listed=False)


def test_cambricon_is_told_its_profile() -> None:
    told = placed(
        "cambricon",
        pod(
            {},
            {
                "cambricon.com/vmlu": 1,
                "cambricon.com/mlu.smlu.vmemory": 4,
                "cambricon.com/mlu.smlu.vcore": 10,
            },
        ),
        count=1,
        cores=200,
        memory=192,
    )
    assert told["hami.io/cambricon-mlu-devices-allocated"] == ";n-cambricon-mlu-1,MLU,1024,10:;"
    assert told["CAMBRICON_DSMLU_ASSIGNED"] == "false"
    assert told["CAMBRICON_DSMLU_PROFILE"] == "1_10_4"


def test_cambricons_cores_are_all_where_none_are_named() -> None:
    told = placed("cambricon", pod({"cambricon.com/vmlu": 1}), cores=100, memory=96)
    assert told["hami.io/cambricon-mlu-devices-allocated"] == "n-cambricon-mlu-0,MLU,24576,100:;"


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (
            {"mthreads.com/vgpu": 2},
            {"mthreads.com/sgpu-core": "32", "mthreads.com/sgpu-memory": "192"},
        ),
        (
            {"mthreads.com/vgpu": 1},
            {"mthreads.com/sgpu-core": "16", "mthreads.com/sgpu-memory": "96"},
        ),
        (
            {"mthreads.com/vgpu": 1, "mthreads.com/sgpu-memory": 32},
            {"mthreads.com/sgpu-memory": "32"},
        ),
    ],
)
def test_moore_threads_whole_cards_are_written_out(
    limits: dict[str, int], wanted: dict[str, str]
) -> None:
    stored, _ = admitted(pod(limits), scheduling_backends("mthreads"))
    resources = stored["spec"]["containers"][0]["resources"]["limits"]
    assert {k: v for k, v in resources.items() if k != "mthreads.com/vgpu"} == wanted


def test_moore_threads_takes_only_its_steps() -> None:
    with pytest.raises(RefusedError, match="write one of 2, 4, 8, 16, 32, 64, 96"):
        admitted(
            pod({"mthreads.com/vgpu": 1, "mthreads.com/sgpu-memory": 3}),
            scheduling_backends("mthreads"),
        )


def test_moore_threads_pods_stay_on_one_card() -> None:
    half = {"mthreads.com/vgpu": 1, "mthreads.com/sgpu-memory": 32, "mthreads.com/sgpu-core": 4}
    found = placed("mthreads", pod(half, half), count=2, cores=32, memory=192)
    assert isinstance(found, Unfit)  # a card is shared by nobody, and there is no other for it
    alone = placed("mthreads", pod(half), count=2, cores=32, memory=192)
    assert alone["mthreads.com/gpu-index"] == "1"
    assert (alone["mthreads.com/predicate-node"], alone["mthreads.com/predicate-time"]) == (
        "n",
        "42",
    )


def test_enflames_cards_are_idle_ones() -> None:
    told = placed("enflame", pod({"enflame.com/gcu": 2}), count=4)
    assert told["hami.io/enflame-gcu-devices-allocated"] == (
        "n-GCU-3,GCU,49152,100:n-GCU-2,GCU,49152,100:;"
    )
    assert isinstance(placed("enflame", pod({"enflame.com/gcu": 5}), count=4), Unfit)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"word": "MLUU"}, "no such word"),
        ({"deviceNode": "/dev/cambricon"}, "no number"),
        ({"memoryMiB": 0}, "out of range"),
        ({"env": {"A B": "x"}}, "no name of a variable"),
        ({"env": {"A": "{host}"}}, "unknown field 'host'"),
        ({"env": {"A": "{indices"}}, "braces"),
        ({"annotations": {"x": "{secret}"}}, "unknown field 'secret'"),
        ({"resources": {}}, "resources.count: missing"),
        ({"resources": {"count": "vmlu"}}, "not a resource name"),
        ({"colour": "red"}, "unknown key"),
        ({"name": None}, "name: missing"),
    ],
)
def test_a_wrong_declaration_names_the_key(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse({**GOOD, **changed}, "acme.yaml")


@given(
    st.dictionaries(
        st.sampled_from(sorted(GOOD)), st.none() | st.integers() | st.text() | st.lists(st.text())
    )
)
def test_no_declaration_raises_anything_else(changed: dict[str, Any]) -> None:
    try:
        parse({**GOOD, **changed}, "acme.yaml")
    except ValueError as error:
        assert "acme.yaml" in str(error)


def test_cards_are_device_nodes_by_number(tmp_path: Path, probed: Callable[..., Snapshot]) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("cambricon_dev10", "cambricon_dev2", "cambricon_ctl", "cambricon_devx"):
        (tmp_path / "dev" / name).touch()
    devices = probed("cambricon", tmp_path).devices
    assert [(d.uuid, d.device_nodes) for d in devices] == [
        ("cambricon-2", ("/dev/cambricon_dev2",)),
        ("cambricon-10", ("/dev/cambricon_dev10",)),
    ]
    with pytest.raises(DriverError) as raised:
        probed("mthreads", tmp_path)
    assert raised.value.absent


@pytest.mark.parametrize(
    ("vendor", "resource", "nodes", "env"),
    [
        (
            "cambricon",
            "cambricon.com/vmlu",
            ["/dev/cambricon_ctl", "/dev/cambricon_dev1"],
            "MLU_VISIBLE_DEVICES",
        ),
        ("enflame", "enflame.com/gcu", ["/dev/gcu1", "/dev/gcuctl"], "ENFLAME_VISIBLE_DEVICES"),
        ("mthreads", "mthreads.com/vgpu", ["/dev/mtgpu.1"], "MTHREADS_VISIBLE_DEVICES"),
    ],
)
async def test_a_card_reaches_its_container(
    machine: Callable[..., Any],
    tmp_path: Path,
    doc_pods: Any,
    vendor: str,
    resource: str,
    nodes: list[str],
    env: str,
) -> None:
    nothing = tmp_path / "nothing"
    nothing.touch()
    made = machine(vendor, nothing, "/nothing", "FAKE_NOTHING", "")
    for number in range(2):
        made.put(nodes[-1 if vendor != "enflame" else 0].replace("1", str(number)))
    await made.start(DEFERRED, resource)
    outcome = await made.run(doc_pods("declared")[vendor], Habit.VOLCANO)
    seen = made.seen(outcome.containers["main"])
    assert seen["devices"] == nodes
    assert seen["env"][env] == "1"


@pytest.mark.parametrize(
    ("vendor", "section", "names"),
    [
        (
            "cambricon",
            {"resourceCountName": "a.io/n", "resourceMemoryName": "a.io/m"},
            ("a.io/n", "a.io/m", "cambricon.com/mlu.smlu.vcore"),
        ),
        ("mthreads", {"resourceCoreName": "a.io/c"}, (
            "mthreads.com/vgpu", "mthreads.com/sgpu-memory", "a.io/c",
        )),
        ("enflame", {"resourceNameGCU": "a.io/n", "resourceMemoryName": "a.io/m"}, (
            "a.io/n", "", "",
        )),
    ],
)  # fmt: skip
def test_the_section_of_hamis_file_names_the_resources_for_both_halves(
    vendor: str, section: dict[str, str], names: tuple[str, str, str]
) -> None:
    from deviceplugin import registry
    from deviceplugin.vendor import VendorSettings
    from deviceplugin.vendor.declared.node import declared_node

    (backend,) = registry.load_scheduling(registry.load().vendors[vendor], section)
    found = backend.resources
    assert (found.count, found.memory, found.cores) == names
    node = declared_node(f"deviceplugin.vendors.declared:{vendor}.yaml")
    card = PhysicalDevice(uuid="x-0", index="0", model="m")
    (plan,) = node(VendorSettings(node_name="n", section=section)).plan(Snapshot((card,)))
    assert plan.resource == names[0]


def test_a_name_in_the_section_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="resourceCountName"):
        parse(GOOD, "x").called({"resourceCountName": "no name"})
