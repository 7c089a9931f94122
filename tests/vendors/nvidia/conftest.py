"""A node with a driver root tree and our fake NVML, read through the production binding.

The library is loaded in a process of its own, as it is in production; `Driver` asks one.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.probe import stream
from deviceplugin.vendor import HealthEvent, PhysicalDevice, Snapshot, Usage, VendorSettings
from deviceplugin.vendors.nvidia.node import NvidiaNode

SOURCE = Path(__file__).parents[2] / "fakelibs" / "nvml" / "nvml.c"
GIB = 1024**3

# Discovers in the first scenario, then reads in the second how busy those devices are.
USAGE = """
import json, os, sys
from deviceplugin.probe import stream
from deviceplugin.vendor import DriverError
from deviceplugin.vendors.nvidia.node import NvidiaNode

asked = json.load(sys.stdin)
node = NvidiaNode(stream.settings_from_dict(asked["settings"]))
found = None
for scenario in asked["scenarios"]:
    with open(os.environ["FAKE_NVML_SCENARIO"], "w") as file:
        file.write(scenario)
    found = found or node.discover()
try:
    answer = {"devices": [stream.usage_to_dict(usage) for usage in node.usage(found)]}
except DriverError as error:
    answer = {"error": str(error)}
json.dump(answer, sys.stdout)
"""

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
        *answers, seen = self._run(SCRIPT, scenarios, settings, events=events)
        return answers, [HealthEvent(**event) for event in seen]

    def usage(self, found: str, *busy: str, **settings: Any) -> list[Usage] | str:
        """Discover in one scenario and read in another how busy the devices are; the text of the
        `DriverError` where that fails.
        """
        answer = self._run(USAGE, [found, *busy], settings)
        return answer.get("error") or list(stream.usages_from_dict(answer))

    def _run(
        self, script: str, scenarios: Sequence[str], settings: Mapping[str, Any], **more: Any
    ) -> Any:
        request = {
            "settings": stream.settings_to_dict(self.tree.settings(**settings)),
            "scenarios": list(scenarios),
            **more,
        }
        done = subprocess.run(
            [sys.executable, "-P", "-c", script],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

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


# --- cards that are partitioned on demand ------------------------------------------------------

A100 = "NVIDIA A100-SXM4-40GB"
A100_PROFILES = (
    {"index": 0, "id": 19, "name": "MIG 1g.5gb", "slices": 1, "memory": 4864,
     "size": 1, "starts": "0,1,2,3,4,5,6", "base": 7},
    {"index": 1, "id": 14, "name": "MIG 2g.10gb", "slices": 2, "memory": 9856,
     "size": 2, "starts": "0,2,4", "base": 3},
    {"index": 2, "id": 9, "name": "MIG 3g.20gb", "slices": 3, "memory": 19968,
     "size": 4, "starts": "0,4", "base": 1},
    {"index": 4, "id": 0, "name": "MIG 7g.40gb", "slices": 7, "memory": 40192,
     "size": 8, "starts": "0", "base": 0},
    {"index": 7, "id": 20, "name": "MIG 1g.5gb+me", "slices": 1, "memory": 4864,
     "size": 1, "starts": "0,1,2,3,4,5,6", "base": 7},
)  # fmt: skip
A100_GEOMETRIES = (
    (("1g.5gb", 7),),
    (("1g.5gb", 1), ("2g.10gb", 3)),
    (("3g.20gb", 2),),
    (("7g.40gb", 1),),
)
MEMORY = {"1g.5gb": 5120, "2g.10gb": 10240, "3g.20gb": 20480, "7g.40gb": 40960}
MIG_SECTION = {
    "operatingMode": "mig",
    "deviceSplitCount": 10,
    "knownMigGeometries": [
        {
            "models": ["A100-SXM4-40GB"],
            "allowedGeometries": [
                [
                    {"name": name, "core": 14, "memory": MEMORY[name], "count": count}
                    for name, count in geometry
                ]
                for geometry in A100_GEOMETRIES
            ],
        }
    ],
}

# Forks a process for each line of its input: that one acts as a probe does, and may be killed
# before any line of code that changes a card or the journal.
ZYGOTE = """
import json, os, signal, sys, traceback
import pynvml  # the binding; its library is loaded by each child
from deviceplugin.probe import stream
from deviceplugin.vendor import DriverError
from deviceplugin.vendors.nvidia.node import NvidiaNode

CHANGES = {"enable", "create", "complete", "destroy"}

def is_traced(code):
    if code.co_filename.endswith("/mig_driver.py"):
        return code.co_name in CHANGES
    return code.co_filename.endswith(("/dynamic_mig.py", "/journal.py"))

def act(asked):
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not is_traced(frame.f_code):
            return None
        if event == "line":
            lines += 1
            if lines == asked["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    node = NvidiaNode(stream.settings_from_dict(asked["settings"]))
    answers = []
    for request in asked["requests"]:
        sys.settrace(trace if asked["kill_at"] is not None else None)
        try:
            if request is None:
                answers.append({"snapshot": stream.snapshot_to_dict(node.discover())})
            else:
                answers.append({"answer": dict(node.partition(request))})
        except DriverError as error:
            answers.append({"error": str(error)})
        finally:
            sys.settrace(None)
    return {"answers": answers, "lines": lines}

for line in sys.stdin:
    asked = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.environ.update(asked["environment"])
            os.write(writer, json.dumps(act(asked)).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    print(json.dumps({"status": status, "result": json.loads(text) if text else None}), flush=True)
"""


@pytest.fixture(scope="session")
def zygote() -> Iterator[Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
    """Asks a new process that is forked from one which has everything imported."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", ZYGOTE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    to, out = process.stdin, process.stdout
    assert to is not None
    assert out is not None

    def ask(request: Mapping[str, Any]) -> Mapping[str, Any]:
        to.write(json.dumps(request) + "\n")
        to.flush()
        return json.loads(out.readline())

    yield ask
    to.close()
    process.wait(timeout=10)
    out.close()


class KilledError(Exception):
    """The probe was killed in the middle."""


class PartitionError(Exception):
    """The probe answered with a reason."""


class Arena:
    """A node with two A100 cards whose driver remembers its partitions when probes die.

    `scenario` is what the fake reads beside the cards: faults and processes.
    """

    killed, refused = KilledError, PartitionError

    def __init__(self, base: Path, driver_root: Path, host: Path, ask: Callable[..., Any]) -> None:
        self.run_dir = base / "run"
        self.state = base / "state"
        self.journal = self.run_dir / "nvidia-mig.json"
        self.scenario = ""
        self.card: dict[str, object] = {"mig": 1}
        self.section: dict[str, Any] = MIG_SECTION
        self.lines = 0
        self._base, self._ask = base, ask
        self._roots = (str(driver_root), str(host))

    @property
    def settings(self) -> VendorSettings:
        driver_root, host = self._roots
        return VendorSettings(
            host_root=host,
            section=self.section,
            options={"containerDriverRoot": driver_root, "runDir": str(self.run_dir)},
        )

    @property
    def environment(self) -> dict[str, str]:
        """Writes the scenario; what makes a process use it."""
        fields = {"name": A100, "memory": 40 * GIB, **self.card}
        profiles = "".join(line("profile", **profile) for profile in A100_PROFILES)
        text = DRIVER + card(0, **fields) + card(1, **fields) + profiles + self.scenario
        path = self._base / "scenario"
        path.write_text(text)
        return {"FAKE_NVML_SCENARIO": str(path), "FAKE_NVML_STATE": str(self.state)}

    def copy(self) -> tuple[bytes, bytes]:
        """What driver and journal remember."""
        return self.state.read_bytes(), self.journal.read_bytes()

    def paste(self, former: tuple[bytes, bytes]) -> None:
        """Put driver and journal back to what they were."""
        self.run_dir.mkdir(exist_ok=True)
        self.state.write_bytes(former[0])
        self.journal.write_bytes(former[1])

    def request(self, slot: str, device: int = 0, in_use: Any = (), **more: Any) -> dict[str, Any]:
        """The request of slot ``geometry-position`` as the agent sends it."""
        geometry, position = map(int, slot.split("-"))
        return {
            "device": f"GPU-{device}",
            "slot": slot,
            "geometry": [{"profile": p, "count": n} for p, n in A100_GEOMETRIES[geometry]],
            "position": position,
            "owner": "uid/main",
            "in_use": in_use,
            **more,
        }

    def run(self, *requests: Any, kill_at: int | None = None) -> list[Any]:
        """What a new probe answers to these requests, None being a discovery.

        Raises `KilledError`.
        """
        answer = self._ask(
            {
                "settings": stream.settings_to_dict(self.settings),
                "environment": self.environment,
                "requests": requests,
                "kill_at": kill_at,
            }
        )
        if answer["status"] == signal.SIGKILL:
            raise KilledError
        assert answer["status"] == 0, answer
        self.lines = answer["result"]["lines"]
        return answer["result"]["answers"]

    def partition(self, request: Mapping[str, Any], kill_at: int | None = None) -> dict[str, Any]:
        """The MIG device that a new probe answers. Raises `PartitionError` and `KilledError`."""
        (answer,) = self.run(request, kill_at=kill_at)
        if "error" in answer:
            raise PartitionError(answer["error"])
        return answer["answer"]["device"]

    def discover(self) -> Snapshot:
        """What a new probe finds."""
        (answer,) = self.run(None)
        return stream.snapshot_from_dict(answer["snapshot"])

    def stands(self, device: int = 0) -> dict[str, str]:
        """The MIG devices on a card, uuid and profile."""
        return {
            instance.uuid: instance.profile
            for instance in self.discover().devices
            if instance.parent_uuid == f"GPU-{device}"
        }

    def records(self, kind: str, device: int = 0) -> list[dict[str, int]]:
        """What the driver keeps: ``gi`` and ``ci`` of a card."""
        lines = self.state.read_text().splitlines() if self.state.exists() else []
        found = [
            {key: int(value) for key, value in (pair.split("=") for pair in text.split("|")[1:])}
            for text in lines
            if text.startswith(f"{kind}|")
        ]
        return [r for r in found if r.get("card", device) == device]


@pytest.fixture(scope="session")
def new_arena(
    tmp_path_factory: pytest.TempPathFactory, fake_nvml: Path, zygote: Any
) -> Callable[[], Arena]:
    """Makes nodes that have nothing in common but the driver's files."""
    base = tmp_path_factory.mktemp("arena")
    folder = base / "driver-root" / "usr" / "lib64"
    folder.mkdir(parents=True)
    shutil.copy(fake_nvml, folder)
    (folder / "libnvidia-ml.so.1").symlink_to(fake_nvml.name)
    (base / "driver-root" / "dev").mkdir()
    kernel = base / "host" / "proc" / "driver" / "nvidia-caps"
    kernel.mkdir(parents=True)
    keys = [
        key
        for gpu in range(2)
        for gi in range(14)
        for key in (f"gpu{gpu}/gi{gi}/access", f"gpu{gpu}/gi{gi}/ci0/access")
    ]
    minors = "".join(f"{key} {number}\n" for number, key in enumerate(keys, 3))
    (kernel / "mig-minors").write_text(minors)
    (base / "host" / "proc" / "devices").write_text("Character devices:\n239 nvidia-caps\n")
    numbers = itertools.count()

    def make() -> Arena:
        place = base / str(next(numbers))
        place.mkdir()
        return Arena(place, base / "driver-root", base / "host", zygote)

    return make


@pytest.fixture
def arena(new_arena: Callable[[], Arena]) -> Arena:
    return new_arena()
