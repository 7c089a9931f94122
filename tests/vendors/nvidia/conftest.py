"""A node with a driver root tree and our fake NVML, read through the production binding.

The library is loaded in a process of its own, as it is in production; `Driver` asks one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.probe import stream
from deviceplugin.vendor import HealthEvent, PhysicalDevice, Snapshot, VendorSettings
from deviceplugin.vendors.nvidia.node import NvidiaNode

SOURCE = Path(__file__).parents[2] / "fakelibs" / "nvml" / "nvml.c"
GIB = 1024**3

# Asks the node once for each scenario in turn, then for health events.
SCRIPT = """
import itertools, json, os, sys
from deviceplugin.probe import stream
from deviceplugin.vendor import DriverError
from deviceplugin.vendors.nvidia.node import NvidiaNode

asked = json.load(sys.stdin)
node = NvidiaNode(stream.settings_from_dict(asked["settings"]))
answers = []
for scenario in asked["scenarios"]:
    with open(os.environ["FAKE_NVML_SCENARIO"], "w") as file:
        file.write(scenario)
    try:
        snapshot = node.discover()
        answers.append({"snapshot": stream.snapshot_to_dict(snapshot)})
    except DriverError as error:
        answers.append({"error": str(error), "absent": error.absent})
events = node.watch_health(snapshot) if asked["events"] else ()
answers.append([
    {"uuid": e.uuid, "healthy": e.healthy, "reason": e.reason}
    for e in itertools.islice(events, asked["events"])
])
json.dump(answers, sys.stdout)
"""


def line(kind: str, **fields: object) -> str:
    return "|".join([kind, *(f"{key}={value}" for key, value in fields.items())]) + "\n"


def card(index: int, **fields: object) -> str:
    """A record of a healthy 4 GiB card."""
    defaults: dict[str, object] = {
        "uuid": f"GPU-{index}",
        "name": "NVIDIA Test",
        "memory": 4 * GIB,
        "bus": f"00000000:{0x3B + index:02X}:00.0",
        "minor": index,
        "cc": "8.0",
        "mig": 0,
    }
    merged = {**defaults, **fields}
    return line("card", **{key: value for key, value in merged.items() if value is not None})


DRIVER = line("driver", version="550.54.15", cuda=12040)


@pytest.fixture
def record() -> Callable[..., str]:
    """A record of the fake's scenario by kind and fields."""
    return line


@pytest.fixture
def cards() -> Callable[..., str]:
    """The scenario of n cards."""

    def make(count: int, *more: str) -> str:
        return "".join([DRIVER, *(card(index) for index in range(count)), *more])

    return make


@pytest.fixture
def one_card() -> Callable[..., str]:
    """The record of one card with other fields; None leaves a field out."""
    return card


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our libnvidia-ml.so.1, built once."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc) to build the fake NVML with")
    target = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.550.54.15"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(target), str(SOURCE)], check=True)
    return target


class Tree:
    """A host's root and a driver root below a temporary directory."""

    def __init__(self, base: Path) -> None:
        self.host = base / "host"
        self.driver = base / "driver-root"
        (self.driver / "dev").mkdir(parents=True)
        self.host.mkdir()

    def add(self, path: str, text: str = "") -> None:
        """A file, by a path below the temporary directory."""
        target = self.host.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def settings(
        self,
        section: Mapping[str, Any] | None = None,
        sharing: Mapping[str, Any] | None = None,
        enforce_isolation: bool = True,
        **options: Any,
    ) -> VendorSettings:
        return VendorSettings(
            host_root=str(self.host),
            enforce_isolation=enforce_isolation,
            section=section or {},
            sharing=sharing or {},
            options={"containerDriverRoot": str(self.driver), **options},
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def node(tree: Tree) -> Callable[..., NvidiaNode]:
    """A node half that loads nothing: for what the agent calls."""
    return lambda **settings: NvidiaNode(tree.settings(**settings))


@pytest.fixture
def device() -> Callable[..., PhysicalDevice]:
    """A healthy 8000 MiB card."""

    def make(uuid: str = "GPU-0", **fields: Any) -> PhysicalDevice:
        defaults: dict[str, Any] = {
            "index": "0",
            "model": "NVIDIA Test",
            "memory_mib": 8000,
            "device_nodes": ("/dev/nvidiactl", "/dev/nvidia0"),
            "attributes": {"platform": "nvml", "cuda.compute-capability": "8.0"},
        }
        return PhysicalDevice(uuid, **{**defaults, **fields})

    return make


class Driver:
    """The node half in a process with the fake library."""

    def __init__(self, tree: Tree, library: Path) -> None:
        self.tree = tree
        folder = tree.driver / "usr" / "lib64"
        folder.mkdir(parents=True)
        shutil.copy(library, folder)
        (folder / "libnvidia-ml.so.1").symlink_to(library.name)
        self.scenario = tree.host.parent / "scenario"
        self.environment = {**os.environ, "FAKE_NVML_SCENARIO": str(self.scenario)}

    def ask(
        self, scenarios: Sequence[str], events: int = 0, **settings: Any
    ) -> tuple[list[Any], list[HealthEvent]]:
        """Discover in each scenario, then wait for `events` health events."""
        request = {
            "settings": stream.settings_to_dict(self.tree.settings(**settings)),
            "scenarios": list(scenarios),
            "events": events,
        }
        done = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        *answers, seen = json.loads(done.stdout)
        return answers, [HealthEvent(**event) for event in seen]

    def discover(self, scenario: str, **settings: Any) -> Snapshot:
        return self.discoveries(scenario, **settings)[0]

    def discoveries(self, *scenarios: str, **settings: Any) -> list[Snapshot]:
        answers, _ = self.ask(scenarios, **settings)
        return [stream.snapshot_from_dict(answer["snapshot"]) for answer in answers]

    def refusal(self, scenario: str, **settings: Any) -> tuple[str, bool]:
        """The text of the `DriverError` and whether it says that the driver is absent."""
        (answer,), _ = self.ask([scenario], **settings)
        return answer["error"], answer["absent"]

    def events(self, scenario: str, count: int, **settings: Any) -> list[HealthEvent]:
        return self.ask([scenario], events=count, **settings)[1]


@pytest.fixture
def driver(tree: Tree, fake_nvml: Path) -> Driver:
    return Driver(tree, fake_nvml)


@pytest.fixture
def mig_node(tree: Tree) -> Callable[..., str]:
    """The scenario of a 40 GiB card with a 1g.5gb instance in slot 0 and a 2g.10gb+me one in slot
    2, and what the kernel knows of their capabilities.
    """
    tree.add(
        "host/proc/driver/nvidia-caps/mig-minors",
        "config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\n"
        "gpu0/gi2/access 21\ngpu0/gi2/ci0/access 22\n",
    )
    name = "NVIDIA A100-SXM4-40GB"
    small = {"memory": 4864 << 20, "gi": 1, "ci": 0, "compute": 1, "slices": 1}
    large = {"memory": 9856 << 20, "gi": 2, "ci": 0, "compute": 2, "slices": 2}
    scenario = (
        DRIVER
        + card(0, name=name, memory=40 * GIB, mig=1)
        + line("mig", card=0, slot=0, uuid="MIG-0", name=f"{name} MIG 1g.5gb", **small)
        + line("mig", card=0, slot=2, uuid="MIG-1", name=f"{name} MIG 2g.10gb+me", **large)
    )
    return lambda *more: "".join([scenario, *more])
