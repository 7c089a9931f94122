"""HAMi's device configuration in both of its shapes, its flags and its environment; and what becomes
of a file that changes while the scheduler answers (hami-scheduler.md 1.1, 1.2, 5).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from prometheus_client import CollectorRegistry

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.cli.backends import Configured, configured
from deviceplugin.cli.following import CHANGED, FAILED, Following
from deviceplugin.cli.scheduler import IGNORED, SWITCHES, scheduler
from deviceplugin.cli.values import Address, duration
from deviceplugin.config import ConfigError
from deviceplugin.config.reload import Reloader

CHART = Path(__file__).parent / "files" / "device-config.yaml"
DOCUMENT = yaml.safe_load(CHART.read_text())
SERVED = {
    "NVIDIA": "nvidia.com/gpu nvidia.com/gpumem nvidia.com/gpucores "
    "nvidia.com/gpumem-percentage nvidia.com/priority",
    "MLU": "cambricon.com/vmlu cambricon.com/mlu.smlu.vmemory cambricon.com/mlu.smlu.vcore",
    "DCU": "hygon.com/dcunum hygon.com/dcumem hygon.com/dcucores",
    "Metax-GPU": "metax-tech.com/gpu",
    "Metax-SGPU": "metax-tech.com/sgpu metax-tech.com/vmemory metax-tech.com/vcore",
    "GCU": "enflame.com/gcu",
    "Mthreads": "mthreads.com/vgpu mthreads.com/sgpu-memory mthreads.com/sgpu-core",
    "kunlun": "kunlunxin.com/xpu",
    "XPU": "kunlunxin.com/vxpu kunlunxin.com/vxpu-memory",
    **{
        word: f"iluvatar.ai/{word}-vgpu iluvatar.ai/{word}.vMem iluvatar.ai/{word}.vCore"
        for word in ("MR-V100", "MR-V50", "BI-V150", "BI-V100")
    },
    **{
        f"Ascend{chip}": f"huawei.com/Ascend{chip} huawei.com/Ascend{chip}-memory"
        for chip in ("910A", "910B2", "910B3", "910B4-1", "910B4", "310P")
    },
}


def resources(found: Configured) -> dict[str, frozenset[str]]:
    return {b.keys.common_word: frozenset(b.resources.names()) for b in found.backends}


def written(directory: Path, document: Any) -> str:
    file = directory / "device-config.yaml"
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return str(file)


@pytest.mark.parametrize("shape", ["2.8", "2.9"])
def test_the_charts_file_is_read_in_both_shapes(tmp_path: Path, shape: str) -> None:
    document = {**DOCUMENT}
    if shape == "2.9":
        document["vnpus"] = {"hamiVnpuCore": False, "configs": DOCUMENT["vnpus"]}
    found = configured(written(tmp_path, document))
    wanted = {word: frozenset(names.split()) for word, names in SERVED.items()}
    assert resources(found).items() >= wanted.items()
    assert [note for note in found.notes if not note.startswith("section ")] == []
    assert [note.split(":")[0] for note in found.notes] == ["section amd", "section awsneuron"]


def test_the_charts_file_says_nothing_that_is_not_so_without_it() -> None:
    without = resources(configured(""))
    for word, names in resources(configured(str(CHART))).items():
        assert names <= without[word]


NAMES = [
    (section, key, word)
    for section, word in (
        ("nvidia", "NVIDIA"),
        ("cambricon", "MLU"),
        ("hygon", "DCU"),
        ("mthreads", "Mthreads"),
    )
    for key in ("resourceCountName", "resourceMemoryName", "resourceCoreName")
] + [
    ("nvidia", "resourceMemoryPercentageName", "NVIDIA"),
    ("nvidia", "resourcePriorityName", "NVIDIA"),
    ("metax", "resourceCountName", "Metax-GPU"),
    ("metax", "resourceVCountName", "Metax-SGPU"),
    ("metax", "resourceVMemoryName", "Metax-SGPU"),
    ("metax", "resourceVCoreName", "Metax-SGPU"),
    ("enflame", "resourceNameGCU", "GCU"),
    ("kunlun", "resourceCountName", "kunlun"),
    ("kunlun", "resourceVCountName", "XPU"),
    ("kunlun", "resourceVMemoryName", "XPU"),
]


@pytest.mark.parametrize(("section", "key", "word"), NAMES)
def test_every_name_of_a_resource_is_the_files(
    tmp_path: Path, section: str, key: str, word: str
) -> None:
    former = DOCUMENT[section][key]
    document = {**DOCUMENT, section: {**DOCUMENT[section], key: "example.com/other"}}
    found = resources(configured(written(tmp_path, document)))[word]
    assert "example.com/other" in found
    assert former not in found


@pytest.mark.parametrize(
    ("section", "key", "word"),
    [
        ("iluvatars", "resourceCountName", "MR-V100"),
        ("iluvatars", "resourceMemoryName", "MR-V100"),
        ("iluvatars", "resourceCoreName", "MR-V100"),
        ("vnpus", "resourceName", "Ascend910A"),
        ("vnpus", "resourceMemoryName", "Ascend910A"),
    ],
)
def test_every_name_in_a_list_of_chips_is_the_files(
    tmp_path: Path, section: str, key: str, word: str
) -> None:
    first, *rest = DOCUMENT[section]
    document = {**DOCUMENT, section: [{**first, key: "example.com/other"}, *rest]}
    found = resources(configured(written(tmp_path, document)))
    assert "example.com/other" in found[word]
    assert first[key] not in found[word]


def test_a_resource_is_one_words_and_the_other_is_told_of(tmp_path: Path) -> None:
    document = {"hygon": {"resourceCountName": "nvidia.com/gpu"}}
    found = configured(written(tmp_path, document))
    owners = [b.keys.common_word for b in found.backends if b.resources.count == "nvidia.com/gpu"]
    assert len(owners) == 1
    assert any("is left out" in note and "nvidia.com/gpu" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "all configurations are empty"),
        ("flags: {migStrategy: none}", "all configurations are empty"),
        ("nvidia: [", "neither YAML nor JSON"),
        ("nvidia: {memoryFactor: many}", "nvidia.memoryFactor"),
        ("metax: {sgpuTopologyAware: perhaps}", "metax.sgpuTopologyAware"),
        ("cambricon: {resourceCoreName: no name}", "cambricon.resourceCoreName"),
        ("vnpus: [{chipName: 910A}]", "commonWord"),
        ("hygon: {memoryFactor: 1}\nhygon: {}", "stands twice"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_the_place(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(written(tmp_path, text))
    assert said in str(refused.value)


# --- flags and environment ---------------------------------------------------------------------


def flags(*given: str) -> dict[str, Any]:
    return scheduler.make_context("scheduler", list(given)).params


@pytest.mark.parametrize("flag", IGNORED)
def test_flags_without_a_meaning_are_taken_and_told_of(flag: str) -> None:
    dashes = "-" if len(flag) == 1 else "--"
    found = flags(f"{dashes}{flag}=3") if dashes == "--" else flags("-v=3", "-v", "4")
    assert found[f"ignored_{flag}".replace("-", "_")] is not None


@pytest.mark.parametrize("flag", SWITCHES)
@pytest.mark.parametrize("how", ["", "=true", "=false"])
def test_switches_are_taken_alone_and_with_their_value(flag: str, how: str) -> None:
    found = flags(f"--{flag}{how}", "--http_bind=127.0.0.1:0")
    assert found[f"ignored_{flag}".replace("-", "_")] is (how != "=false")
    assert found["listen"] == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("5m0s", 300), ("1.5s", 1.5), ("250ms", 0.25)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "5m ", "-1s", "1d", "5m,", "1h 1m"])
def test_what_is_no_duration_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="write 5m"):
        duration(text)


def test_an_address_without_a_host_is_every_address() -> None:
    assert Address().convert(":9395", None, None) == "0.0.0.0:9395"
    assert Address().convert("127.0.0.1:9395", None, None) == "127.0.0.1:9395"
    assert Address().convert("[::1]:9395", None, None) == "[::1]:9395"


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("", 300), ("soon", 300)])
def test_the_environment_says_when_a_lock_expires_where_no_flag_does(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: int
) -> None:
    from deviceplugin.cli.scheduler import _lock_timeout

    monkeypatch.setenv("HAMI_NODELOCK_EXPIRE", text)
    told: list[str] = []
    assert _lock_timeout(lambda text, **_: told.append(text)) == timedelta(seconds=seconds)
    assert bool(told) is (text == "soon")


# --- while it runs -----------------------------------------------------------------------------


class Live:
    """A scheduler that follows a file, and what it told of it."""

    def __init__(self, bench: Any, file: Path) -> None:
        self.bench, self.file = bench, file
        self.said: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.metrics = CollectorRegistry()
        self.made: Any = None
        self.address = ""

    def publish(self, document: Any) -> None:
        """Another file in the place of this one, as kubelet swaps a ConfigMap's."""
        fresh = self.file.with_name("..new")
        fresh.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        fresh.rename(self.file)

    async def told(self, reason: str) -> str:
        """The next that is told, which has to have this reason."""
        async with asyncio.timeout(30):
            found, message = await self.said.get()
        assert found == reason, message
        return message

    def outcomes(self, outcome: str) -> float:
        name = "deviceplugin_scheduler_config_reloads_total"
        return self.metrics.get_sample_value(name, {"outcome": outcome}) or 0

    @property
    def refused(self) -> bool:
        return bool(self.metrics.get_sample_value("deviceplugin_scheduler_config_refused"))


def named(count: str, **more: Any) -> dict[str, Any]:
    return {"nvidia": {"resourceCountName": count, **more}}


@pytest.fixture
async def live(bench: Any, make: Any, tmp_path: Path) -> AsyncIterator[Live]:
    directory = tmp_path / "device-config"
    directory.mkdir()
    found = Live(bench, directory / "device-config.yaml")
    found.publish(named("nvidia.com/gpu"))
    item = make.node("a", cards=1, memory=16000, deferred=True)
    for part in item["status"].values():
        part["example.com/gpu"] = "10"
    bench.server.create("nodes", item)
    first = configured(str(found.file))
    found.made, found.address = await bench.scheduler()
    following = Following(
        lambda backends: found.made.serve(backends),
        lambda reason, message: found.said.put_nowait((reason, message)),
        found.metrics,
    )
    reloader = Reloader(
        first.loaded, lambda: configured(str(found.file)).loaded, following.handle, debounce=0.01
    )
    task = asyncio.create_task(reloader.run())
    reloader.reload()
    await bench.until(lambda: found.outcomes("unchanged"))
    yield found
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def asking(make: Any, name: str, resource: str) -> Any:
    item = make.pod(name)
    limits = {resource: "1", "nvidia.com/gpumem": "100"}
    item["spec"]["containers"][0]["resources"]["limits"] = limits
    return item


async def test_a_good_file_takes_effect_and_says_what_changed(live: Live, make: Any) -> None:
    live.bench.server.create("pods", asking(make, "before", "nvidia.com/gpu"))
    await live.bench.filter(live.address, "before", ["a"])
    with structlog.testing.capture_logs() as lines:
        live.publish(named("example.com/gpu", defaultGPUNum=2))
        message = await live.told(CHANGED)
    assert 'nvidia.resourceCountName: "nvidia.com/gpu" -> "example.com/gpu"' in message
    assert "nvidia.defaultGPUNum: nothing -> 2" in message
    assert any(line.get("reason") == CHANGED for line in lines)
    assert (live.outcomes("reloaded"), live.refused) == (1, False)
    live.bench.server.create("pods", asking(make, "after", "example.com/gpu"))
    assert (await live.bench.filter(live.address, "after", ["a"]))["NodeNames"] == ["a"]
    assert VENDORS["NVIDIA"].allocated in str(live.bench.server.get("pods", "after", "default"))
    assert {h.name for h in live.made.cluster.holdings()} == {"before", "after"}
    assert await live.bench.bind(live.address, "before", "a") == ""


async def test_a_bad_file_and_none_leave_the_former_one_in_force(live: Live, make: Any) -> None:
    before = live.made.cluster.backends
    with structlog.testing.capture_logs() as lines:
        live.publish("nvidia: {memoryFactor: many}")
        assert "nvidia.memoryFactor" in await live.told(FAILED)
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert line["reason"] == FAILED
    assert "nvidia.memoryFactor" in line["why"]
    assert (live.outcomes("refused"), live.refused) == (1, True)
    live.publish("")
    assert "all configurations are empty" in await live.told(FAILED)
    live.file.unlink()
    assert "no such file" in await live.told(FAILED)
    assert live.made.cluster.backends is before
    live.bench.server.create("pods", asking(make, "p", "nvidia.com/gpu"))
    assert (await live.bench.filter(live.address, "p", ["a"]))["NodeNames"] == ["a"]
    live.publish(named("nvidia.com/gpu"))
    await live.bench.until(lambda: not live.refused, 30)
    assert live.made.cluster.backends is before
    live.publish(named("example.com/gpu"))
    await live.told(CHANGED)


async def test_a_vendor_that_fails_on_the_new_file_leaves_the_former_one(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(_: Any) -> None:
        raise RuntimeError("a vendor's mistake")

    before = live.made.cluster.backends
    monkeypatch.setattr(live.made, "serve", serve)
    live.publish(named("example.com/gpu"))
    assert "a vendor's mistake" in await live.told(FAILED)
    assert live.refused
    assert live.made.cluster.backends is before


async def test_what_is_no_vendors_changes_nothing(live: Live) -> None:
    before = live.made.cluster.backends
    live.publish({**named("nvidia.com/gpu"), "flags": {"migStrategy": "single"}})
    await live.bench.until(lambda: live.outcomes("unchanged") == 2, 30)
    assert live.made.cluster.backends is before
    assert live.said.empty()


async def test_requests_go_on_while_the_file_changes_and_nothing_is_given_twice(
    live: Live, make: Any
) -> None:
    """Pods under both names come all the time; each is placed, none holds what another does."""
    names = ("nvidia.com/gpu", "example.com/gpu")
    done = asyncio.Event()

    async def asked(number: int) -> bool:
        """Whether a pod was served; one whose resource is not served now goes where it likes."""
        name = f"p{number}"
        live.bench.server.create("pods", asking(make, name, names[number % 2]))
        answer = await live.bench.filter(live.address, name, ["a"])
        assert (answer["NodeNames"], answer["Error"]) == (["a"], "")
        pod = live.bench.server.get("pods", name, "default")
        if VENDORS["NVIDIA"].allocated not in pod["metadata"].get("annotations", {}):
            live.bench.server.delete("pods", name, "default")
            return False
        assert await live.bench.bind(live.address, name, "a") == ""
        served[names[number % 2]] += 1
        live.bench.server.delete("pods", name, "default")
        return True

    served = dict.fromkeys(names, 0)

    async def load(first: int) -> None:
        number = first
        while not done.is_set():
            await asked(number)
            number += 4

    tasks = [asyncio.create_task(load(first)) for first in range(4)]
    for turn in range(6):
        name = names[(turn + 1) % 2]
        before = served[name]
        live.publish(named(name))
        await live.told(CHANGED)
        await live.bench.until(lambda n=name, b=before: served[n] > b, 30)
    done.set()
    await asyncio.gather(*tasks)
    await live.bench.until(lambda: not list(live.made.cluster.holdings()), 30)
    assert not live.made.cluster.drift("a")
    assert live.made.quotas.used("default") == {}
