"""A healthy node below a temporary directory, which tests then change in one thing."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, VENDORS
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2 as pb
from deviceplugin.api.kubelet.podresources_v1 import podresources_pb2_grpc as rpc
from deviceplugin.doctor.examine import examine
from deviceplugin.doctor.model import Report
from deviceplugin.doctor.scene import Answer, Driver, Scene
from deviceplugin.hook import install as installer
from deviceplugin.hook.manifest import Library, Manifest
from deviceplugin.scheduled.ledger import Ledger, Record, Share
from deviceplugin.testing.elf import shared_object

NOW = datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC)
NODE, GPU, KEYS = "n1", "nvidia.com/gpu", VENDORS["NVIDIA"]
PLUGINS = "/var/lib/kubelet/device-plugins"
POD_RESOURCES = "/var/lib/kubelet/pod-resources"
GRANTS = "/run/deviceplugin/grants.json"
IDS = tuple(f"GPU-1-{number}" for number in range(10))

CONTAINERD = """
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "nvidia"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
      BinaryName = "/usr/bin/nvidia-container-runtime"
"""

DRIVER = Driver(
    vendor="nvidia",
    pci="0x10de",
    root="/",
    other_roots=("/", "/run/nvidia/driver"),
    folders=("usr/lib/x86_64-linux-gnu", "usr/lib64"),
    libraries=("libnvidia-ml.so.1", "libcuda.so.1"),
    module="nvidia",
    version_file="/proc/driver/nvidia/version",
    rivals=("nouveau", "nova_core"),
    nodes=("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"),
    handler="nvidia",
    words=("nvidia", "hami", "vgpu"),
)

FILES = {
    "/proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    ),
    "/proc/modules": "nvidia 1 0 - Live 0x0\next4 1 0 - Live 0x0\n",
    "/proc/1/mountinfo": "20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n",
    "/proc/sys/kernel/osrelease": "6.1.0-13-amd64\n",
    "/proc/sys/fs/file-nr": "1000\t0\t1000000\n",
    "/proc/sys/fs/inotify/max_user_instances": "512\n",
    "/proc/sys/fs/inotify/max_user_watches": "65536\n",
    "/sys/bus/pci/devices/0000:07:00.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:07:00.0/class": "0x030200\n",
    "/usr/lib64/libnvidia-ml.so.550.54.15": "",
    "/usr/lib64/libcuda.so.550.54.15": "",
    "/dev/nvidiactl": "",
    "/dev/nvidia-uvm": "",
    "/dev/nvidia0": "",
    "/etc/containerd/config.toml": CONTAINERD,
    "/usr/bin/nvidia-container-runtime": "",
    "/var/run/cdi/ours.json": json.dumps(
        {
            "cdiVersion": "0.5.0",
            "kind": "deviceplugin.io/gpu",
            "devices": [
                {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}
            ],
        }
    ),
}

Held = tuple[str, str, str, str, tuple[str, ...]]
"""Namespace, pod, container, resource, ids."""


@dataclass
class Kubelet(rpc.PodResourcesListerServicer):
    """PodResources' word."""

    held: list[Held] = field(default_factory=list)

    def List(self, request: Any, context: Any) -> pb.ListPodResourcesResponse:
        def pod(namespace: str, name: str, container: str, resource: str, ids: Any) -> Any:
            devices = [pb.ContainerDevices(resource_name=resource, device_ids=[i]) for i in ids]
            containers = [pb.ContainerResources(name=container, devices=devices)]
            return pb.PodResources(namespace=namespace, name=name, containers=containers)

        return pb.ListPodResourcesResponse(pod_resources=[pod(*item) for item in self.held])


@dataclass
class World:
    """`node` and `pods` are what the API server has, `kubelet` what PodResources says; `scene` is
    all that is told about the node.
    """

    root: Path
    scene: Scene
    monkeypatch: pytest.MonkeyPatch
    closing: ExitStack
    node: Any = field(default_factory=dict)
    pods: list[Any] = field(default_factory=list)
    kubelet: Kubelet = field(default_factory=Kubelet)

    # --- files -----------------------------------------------------------------------------------

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str) -> Path:
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def replace(self, path: str, old: str, new: str) -> None:
        text = self.path(path).read_text()
        assert old in text
        self.path(path).write_text(text.replace(old, new))

    def listen(self, name: str) -> socket.socket:
        """Somebody listens on this socket of kubelet's directory until the test ends."""
        server = self.closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        server.bind(str(self.path(f"{PLUGINS}/{name}")))
        server.listen(8)
        return server

    def leave(self, name: str) -> None:
        """A socket there whose owner ended."""
        self.listen(name).close()

    def checkpoint(self, text: str) -> None:
        self.write(f"{PLUGINS}/kubelet_internal_checkpoint", text)

    def remembers(
        self,
        registered: Mapping[str, Any],
        ids: Any = IDS[:1],
        uid: str = "uid-train",
        container: str = "main",
    ) -> None:
        """Kubelet's checkpoint says this."""
        entry = {
            "PodUID": uid,
            "ContainerName": container,
            "ResourceName": GPU,
            "DeviceIDs": {"-1": list(ids)},
            "AllocResp": "",
        }
        data = {"PodDeviceEntries": [entry], "RegisteredDevices": dict(registered)}
        self.checkpoint(json.dumps({"Data": data, "Checksum": 0}))

    def record(self, **changes: Any) -> None:
        """What our record says of the pod's grant."""
        record = Record(
            "nvidia",
            GPU,
            frozenset(IDS[:1]),
            "uid-train",
            "default",
            "train",
            "main",
            (Share("GPU-1", 8000, 30),),
        )
        Ledger(self.path(GRANTS)).put(replace(record, **changes))

    # --- the API server's objects ----------------------------------------------------------------

    @property
    def pod(self) -> Any:
        return self.pods[0]

    @property
    def container(self) -> Any:
        return self.pod["spec"]["containers"][0]

    def env(self, name: str, value: str) -> None:
        self.container.setdefault("env", []).append({"name": name, "value": value})

    def annotation(self, key: str, value: str | None) -> None:
        """Of the node."""
        annotations = self.node["metadata"]["annotations"]
        annotations.pop(key, None)
        if value is not None:
            annotations[key] = value

    # --- the question ---------------------------------------------------------------------------

    def with_scene(self, **changes: Any) -> None:
        self.scene = replace(self.scene, **changes)

    def report(self, *groups: str) -> Report:
        return examine(self.scene, groups)

    def found(self, *groups: str) -> set[str]:
        return {finding.id for finding in self.report(*groups).findings}


@dataclass(frozen=True)
class Objects:
    """Answers as an API server does, with what the world has at the moment."""

    world: World

    def node(self, name: str) -> Any:
        found = self.world.node
        return found if found["metadata"]["name"] == name else None

    def pods(self, node: str) -> tuple[Any, ...]:
        return tuple(pod for pod in self.world.pods if pod["spec"].get("nodeName") == node)

    def pod(self, namespace: str, name: str) -> Any:
        wanted = {"namespace": namespace, "name": name}
        return next((p for p in self.world.pods if wanted.items() <= p["metadata"].items()), None)


def _library(root: Path) -> Manifest:
    """libvgpu as the installer puts it, and a manifest that knows it."""
    source = root / "source"
    source.mkdir()
    for place in ("tmp", "usr/local"):
        (root / place).mkdir(parents=True, exist_ok=True)
    data = shared_object("library")
    (source / "libvgpu.so.v2.8.0").write_bytes(data)
    manifest = Manifest((Library("v2.8.0", "x86_64", hashlib.sha256(data).hexdigest()),))
    library = installer.from_directory(source, "x86_64", manifest)
    installer.install(root, "/usr/local/vgpu", library, manifest, "x86_64")
    return manifest


def _node() -> dict[str, Any]:
    card = NodeDevice(
        uuid="GPU-1", count=10, memory=40960, cores=100, type="NVIDIA-Test", healthy=True
    )
    return {
        "metadata": {
            "name": NODE,
            "uid": "uid-n1",
            "annotations": {str(KEYS.register): register.encode([card])},
        },
        "status": {
            "allocatable": {GPU: "10", "cpu": "8"},
            "nodeInfo": {"containerRuntimeVersion": "containerd://1.7.13"},
        },
    }


def _pod() -> dict[str, Any]:
    return {
        "metadata": {
            "name": "train",
            "namespace": "default",
            "uid": "uid-train",
            "annotations": {
                KEYS.allocated: "GPU-1,NVIDIA,8000,30:;",
                BIND_PHASE: "success",
                BIND_TIME: str(int((NOW - timedelta(hours=1)).timestamp())),
            },
        },
        "spec": {
            "nodeName": NODE,
            "schedulerName": "hami-scheduler",
            "containers": [
                {"name": "main", "image": "train:1", "resources": {"limits": {GPU: "1"}}}
            ],
        },
        "status": {"phase": "Running"},
    }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A healthy node under a scheduler, below a path that is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="dr-", dir="/tmp"))
    with ExitStack() as closing:
        closing.callback(shutil.rmtree, root, ignore_errors=True)
        scene = Scene(
            root=root,
            node_name=NODE,
            now=NOW,
            strategies=("cdi-cri",),
            allocation="scheduled-deferred",
            limits=True,
            drivers=(DRIVER,),
            resources={GPU: KEYS},
            offered={GPU: frozenset(IDS)},
            limit_variables=("CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_SM_LIMIT"),
            control_variable="CUDA_DISABLE_CONTROL",
            visible_variables=("NVIDIA_VISIBLE_DEVICES",),
            manifest=_library(root),
            answers=(Answer("nvidia"),),
        )
        found = World(root, scene, monkeypatch, closing, _node(), [_pod()])
        found.with_scene(cluster=Objects(found))
        for path, text in FILES.items():
            found.write(path, text)
        for name in ("libcuda.so", "libnvidia-ml.so"):
            found.path(f"/usr/lib64/{name}.1").symlink_to(f"{name}.550.54.15")
        for place in (PLUGINS, POD_RESOURCES):
            found.path(place).mkdir(parents=True)
        found.listen("kubelet.sock")
        found.listen("deviceplugin-nvidia.com_gpu-6512ab.sock")
        found.remembers({GPU: IDS})
        found.record()
        found.kubelet.held.append(("default", "train", "main", GPU, IDS[:1]))
        server = grpc.server(futures.ThreadPoolExecutor(2))
        rpc.add_PodResourcesListerServicer_to_server(found.kubelet, server)
        server.add_insecure_port(f"unix:{root}{POD_RESOURCES}/kubelet.sock")
        server.start()
        closing.callback(lambda: server.stop(None).wait())
        yield found
