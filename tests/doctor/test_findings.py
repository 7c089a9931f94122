"""Every finding: the smallest change of a healthy node that brings it, and one that must not."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.doctor.examine import CHECK_FAILED, GROUPS
from deviceplugin.doctor.model import NotCheckedError
from deviceplugin.doctor.scene import Answer
from deviceplugin.scheduled.ledger import Share

GPU = "nvidia.com/gpu"
LOCK = "hami.io/mutex.lock"
TOML = "/etc/containerd/config.toml"
PLUGINS = "/var/lib/kubelet/device-plugins"
VGPU = "/usr/local/vgpu"

Change = Callable[[Any], object]
BREAKS: dict[str, list[Change]] = {}
"""Changes that must bring a finding, by its id."""
HARMLESS: dict[str, list[Change]] = {}
"""Changes that come close and must not."""

NODE_TOPICS = {topic.id for group in GROUPS for topic in group.topics}
"""What is looked for on a node; clusters are examined by `test_fleet`."""


def breaks(identity: str) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        BREAKS.setdefault(identity, []).append(change)
        return change

    return add


def harmless(identity: str) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        HARMLESS.setdefault(identity, []).append(change)
        return change

    return add


def ago(world: Any, **amount: float) -> str:
    """A time of the lock's form."""
    return (world.scene.now - timedelta(**amount)).isoformat().replace("+00:00", "Z")


def stamp(world: Any, **amount: float) -> str:
    """A time of the handshake's form."""
    return (world.scene.now - timedelta(**amount)).strftime("%Y-%m-%d %H:%M:%S")


def by_list(world: Any) -> None:
    world.with_scene(strategies=("envvar",))


# --- config ---


@breaks("config-refused")
def _(world: Any) -> None:
    world.with_scene(config_problems=("c.yaml: flags.migStrategy: unknown value",))


@breaks("config-doubtful")
def _(world: Any) -> None:
    world.with_scene(config_warnings=("c.yaml: flags.typo: unknown key, ignored",))


# --- driver ---


@breaks("driver-module-missing")
def _(world: Any) -> None:
    world.path("/proc/driver/nvidia/version").unlink()


@harmless("driver-module-missing")
def _(world: Any) -> None:  # a node without a card needs no driver
    world.path("/proc/driver/nvidia/version").unlink()
    world.write("/sys/bus/pci/devices/0000:07:00.0/class", "0x020000\n")


@breaks("driver-module-rival")
def _(world: Any) -> None:
    world.path("/proc/driver/nvidia/version").unlink()
    world.write("/proc/modules", "nouveau 2000 1 - Live 0x0\n")


@breaks("driver-library-missing")
def _(world: Any) -> None:
    world.path("/usr/lib64/libcuda.so.1").unlink()


@breaks("driver-library-missing")
def _(world: Any) -> None:  # a link that leads nowhere is no library
    world.path("/usr/lib64/libnvidia-ml.so.550.54.15").unlink()


@harmless("driver-library-missing")
def _(world: Any) -> None:  # an absolute link is the host's and not ours
    world.path("/usr/lib64/libcuda.so.1").unlink()
    world.path("/usr/lib64/libcuda.so.1").symlink_to("/usr/lib64/libcuda.so.550.54.15")


def elsewhere(world: Any) -> None:
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        world.path(f"/usr/lib64/{name}").unlink()
        world.write(f"/run/nvidia/driver/usr/lib64/{name}", "")


breaks("driver-root-wrong")(elsewhere)
harmless("driver-library-missing")(elsewhere)


@breaks("driver-version-mismatch")
def _(world: Any) -> None:
    world.replace("/proc/driver/nvidia/version", "550.54.15", "535.104.05")


@harmless("driver-version-mismatch")
def _(world: Any) -> None:  # the open module's line is another one
    world.write(
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n",
    )


@breaks("driver-nodes-missing")
def _(world: Any) -> None:
    world.path("/dev/nvidia-uvm").unlink()


# --- devices ---


@breaks("vendor-absent")
def _(world: Any) -> None:
    world.with_scene(answers=())


@breaks("vendor-absent")
def _(world: Any) -> None:
    world.with_scene(answers=(Answer("nvidia", "absent", "no library"),))


@breaks("probe-failed")
def _(world: Any) -> None:
    world.with_scene(answers=(Answer("nvidia", "failed", "nvmlInit: not to be"),))


@breaks("vendor-unknown")
def _(world: Any) -> None:
    world.with_scene(answers=(Answer("nvidai", "unknown", "no such vendor"),))


@breaks("device-unhealthy")
def _(world: Any) -> None:
    world.with_scene(answers=(Answer("nvidia", unhealthy=(("GPU-1", "Xid 79"),)),))


@breaks("sharing-down")
def _(world: Any) -> None:
    world.with_scene(cooperative={GPU: "the MPS daemon is not ready"})


@breaks("limits-cooperative")
def _(world: Any) -> None:
    world.with_scene(cooperative={GPU: ""})


@breaks("device-left-out")
def _(world: Any) -> None:
    world.with_scene(answers=(Answer("nvidia", problems=("GPU-1: no memory",)),))


# --- library ---


@breaks("library-missing")
def _(world: Any) -> None:
    for name in ("libvgpu.so", *(p.name for p in world.path(VGPU).glob("libvgpu.so.*"))):
        world.path(f"{VGPU}/{name}").unlink(missing_ok=True)


@breaks("library-missing")
def _(world: Any) -> None:  # a runtime made a directory for a mount that was not there
    world.path(f"{VGPU}/libvgpu.so").unlink()
    world.path(f"{VGPU}/libvgpu.so").mkdir()


@harmless("library-missing")
def _(world: Any) -> None:  # what HAMi's own installer leaves
    world.path(f"{VGPU}/libvgpu.so").unlink()


@breaks("library-broken")
def _(world: Any) -> None:
    (library,) = world.path(VGPU).glob("libvgpu.so.v*")
    library.write_bytes(library.read_bytes()[:100])


@breaks("library-former-broken")
def _(world: Any) -> None:
    world.write(f"{VGPU}/libvgpu.so.v2.7.0", "not a library")


@breaks("library-unknown")
def _(world: Any) -> None:
    world.with_scene(manifest=replace(world.scene.manifest, libraries=()))


@breaks("library-place")
def _(world: Any) -> None:
    world.path(VGPU).chmod(0o777)


@breaks("preload-missing")
def _(world: Any) -> None:
    world.path(f"{VGPU}/ld.so.preload").unlink()


@breaks("preload-wrong")
def _(world: Any) -> None:
    world.write(f"{VGPU}/ld.so.preload", "/usr/local/vgpu/other.so")


@harmless("preload-wrong")
def _(world: Any) -> None:  # an end of line is no difference
    world.write(f"{VGPU}/ld.so.preload", "/usr/local/vgpu/libvgpu.so\n")


@breaks("license-incomplete")
def _(world: Any) -> None:
    world.write(f"{VGPU}/license", "x")


@breaks("lock-directory")
def _(world: Any) -> None:
    world.path("/tmp/vgpulock").chmod(0o755)


# --- runtime ---


@breaks("runtime-config-broken")
def _(world: Any) -> None:
    world.write(TOML, "[plugins\n")


@breaks("runtime-unknown")
def _(world: Any) -> None:
    world.path(TOML).unlink()
    world.node["status"].pop("nodeInfo")


@breaks("runtime-handler-missing")
def _(world: Any) -> None:
    by_list(world)
    world.replace(TOML, "runtimes.nvidia.options", "runtimes.nvidia-legacy.options")


@breaks("runtime-handler-missing")
def _(world: Any) -> None:  # defaults know only runc
    by_list(world)
    world.path(TOML).unlink()


@harmless("runtime-handler-missing")
def _(world: Any) -> None:  # by CDI no handler is needed
    world.path(TOML).unlink()


@harmless("runtime-handler-missing")
def _(world: Any) -> None:  # it comes with an imported file
    by_list(world)
    world.write("/etc/containerd/conf.d/99-nvidia.toml", world.path(TOML).read_text())
    world.write(TOML, 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n')


@breaks("runtime-not-default")
def _(world: Any) -> None:
    by_list(world)
    world.replace(TOML, 'default_runtime_name = "nvidia"', 'default_runtime_name = "runc"')


@harmless("runtime-not-default")
def _(world: Any) -> None:  # CRI-O's words for the same
    by_list(world)
    world.path(TOML).unlink()
    world.node["status"]["nodeInfo"]["containerRuntimeVersion"] = "cri-o://1.30.2"
    world.write(
        "/etc/crio/crio.conf.d/10-nvidia.conf",
        '[crio.runtime]\ndefault_runtime = "nvidia"\n'
        '[crio.runtime.runtimes.nvidia]\nruntime_path = "/usr/bin/nvidia-container-runtime"\n',
    )


@harmless("runtime-not-default")
def _(world: Any) -> None:  # and Docker's
    by_list(world)
    world.path(TOML).unlink()
    world.node["status"]["nodeInfo"]["containerRuntimeVersion"] = "docker://25.0.3"
    runtimes = {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}
    config = {"default-runtime": "nvidia", "runtimes": runtimes}
    world.write("/etc/docker/daemon.json", json.dumps(config))


@breaks("runtime-binary-missing")
def _(world: Any) -> None:
    world.path("/usr/bin/nvidia-container-runtime").unlink()


@breaks("runtime-cdi-off")
def _(world: Any) -> None:
    world.replace(TOML, "enable_cdi = true", "enable_cdi = false")


@breaks("runtime-cdi-off")
def _(world: Any) -> None:  # containerd 1.7 by default
    world.replace(TOML, "enable_cdi = true", "")


@breaks("runtime-cdi-off")
def _(world: Any) -> None:  # containerd 1.6 whatever it is told
    world.node["status"]["nodeInfo"]["containerRuntimeVersion"] = "containerd://1.6.9"


@harmless("runtime-cdi-off")
def _(world: Any) -> None:  # containerd 2 by default
    world.replace(TOML, "enable_cdi = true", "")
    world.node["status"]["nodeInfo"]["containerRuntimeVersion"] = "containerd://2.1.0-k3s1"


@harmless("runtime-cdi-off")
def _(world: Any) -> None:  # nobody uses it
    by_list(world)
    world.replace(TOML, "enable_cdi = true", "enable_cdi = false")


@breaks("runtime-cdi-unclear")
def _(world: Any) -> None:
    world.replace(TOML, "enable_cdi = true", "")
    world.node["status"].pop("nodeInfo")


@harmless("runtime-cdi-unclear")
def _(world: Any) -> None:  # the format of version 2 says it
    world.node["status"].pop("nodeInfo")
    world.write(TOML, 'version = 3\n[plugins."io.containerd.cri.v1.runtime"]\n')


@breaks("runtime-cdi-directory")
def _(world: Any) -> None:
    world.replace(TOML, '"/etc/cdi", "/var/run/cdi"', '"/etc/cdi"')


@harmless("runtime-cdi-directory")
def _(world: Any) -> None:  # the same directory by its other name
    world.replace(TOML, '"/etc/cdi", "/var/run/cdi"', '"/etc/cdi", "/run/cdi"')


# --- CDI ---


@breaks("cdi-spec-invalid")
def _(world: Any) -> None:
    world.write("/etc/cdi/broken.yaml", "cdiVersion: [")


@harmless("cdi-spec-invalid")
def _(world: Any) -> None:  # readers overlook it
    world.write("/etc/cdi/notes.txt", "{")


@breaks("cdi-device-conflict")
def _(world: Any) -> None:
    text = world.path("/var/run/cdi/ours.json").read_text()
    world.write("/var/run/cdi/theirs.json", text)


@harmless("cdi-device-conflict")
def _(world: Any) -> None:  # of two directories one wins
    text = world.path("/var/run/cdi/ours.json").read_text()
    world.write("/etc/cdi/theirs.json", text)


@breaks("cdi-path-missing")
def _(world: Any) -> None:
    world.replace("/var/run/cdi/ours.json", "/dev/nvidia0", "/dev/nvidia7")


@breaks("cdi-directory-missing")
def _(world: Any) -> None:
    world.path("/var/run/cdi/ours.json").unlink()
    world.path("/var/run/cdi").rmdir()


@harmless("cdi-directory-missing")
def _(world: Any) -> None:
    by_list(world)
    world.path("/var/run/cdi/ours.json").unlink()
    world.path("/var/run/cdi").rmdir()


# --- kubelet ---


@breaks("kubelet-socket-missing")
def _(world: Any) -> None:
    world.path(f"{PLUGINS}/kubelet.sock").unlink()


@breaks("kubelet-socket-dead")
def _(world: Any) -> None:
    world.path(f"{PLUGINS}/kubelet.sock").unlink()
    world.leave("kubelet.sock")


@breaks("pod-resources-unreachable")
def _(world: Any) -> None:
    world.path("/var/lib/kubelet/pod-resources/kubelet.sock").unlink()


@breaks("kubelet-checkpoint-broken")
def _(world: Any) -> None:
    world.checkpoint("{")


@harmless("kubelet-checkpoint-broken")
def _(world: Any) -> None:
    world.checkpoint('{"Data": {"PodDeviceEntries": null, "RegisteredDevices": {}}, "Checksum": 1}')


@breaks("resource-not-registered")
def _(world: Any) -> None:
    world.remembers({"rdma/hca": ["0"]})


@harmless("resource-not-registered")
def _(world: Any) -> None:  # all its devices are unhealthy
    world.remembers({GPU: []})


@harmless("resource-not-registered")
def _(world: Any) -> None:  # kubelet has never written anything
    world.path(f"{PLUGINS}/kubelet_internal_checkpoint").unlink()


@breaks("resource-taken-over")
def _(world: Any) -> None:  # ids as NVIDIA's plugin makes them
    world.remembers({GPU: ["GPU-1::0", "GPU-1::1"]})


@harmless("resource-taken-over")
def _(world: Any) -> None:  # one of a former split is still held
    world.remembers({GPU: ["GPU-1-0", "GPU-1-15"]})


@breaks("resource-served-twice")
def _(world: Any) -> None:
    world.listen("deviceplugin-nvidia.com_gpu-6512ac.sock")


@harmless("resource-served-twice")
def _(world: Any) -> None:  # another resource, and one that ended
    world.listen("deviceplugin-nvidia.com_mig-1g.5gb-6512ac.sock")
    world.leave("deviceplugin-nvidia.com_gpu-6512aa.sock")


@breaks("plugin-competitor")
def _(world: Any) -> None:
    world.listen("nvidia-gpu.sock")


@harmless("plugin-competitor")
def _(world: Any) -> None:  # a plugin for something else, and one that ended
    world.listen("rdma.sock")
    world.leave("nvidia-gpu.sock")


@breaks("agent-not-serving")
def _(world: Any) -> None:
    world.path(f"{PLUGINS}/deviceplugin-nvidia.com_gpu-6512ab.sock").unlink()


@breaks("plugin-sockets-left")
def _(world: Any) -> None:
    world.leave("old.sock")


# --- node ---


@breaks("node-missing")
def _(world: Any) -> None:
    world.node["metadata"]["name"] = "another"


@breaks("node-lock-unreadable")
def _(world: Any) -> None:
    world.annotation(LOCK, "2026-01-20T08:15:30Z,default")


@breaks("node-lock-stale")
def _(world: Any) -> None:
    world.pod["metadata"]["annotations"]["hami.io/bind-phase"] = "allocating"
    world.annotation(LOCK, ago(world, minutes=6) + ",default,train")


@breaks("node-lock-stale")
def _(world: Any) -> None:  # the oldest form names nobody
    world.annotation(LOCK, ago(world, minutes=6))


def locked_now(world: Any) -> None:
    world.pod["metadata"]["annotations"]["hami.io/bind-phase"] = "allocating"
    world.annotation(LOCK, ago(world, seconds=10) + ",default,train")


harmless("node-lock-stale")(locked_now)
harmless("node-lock-left")(locked_now)


@breaks("node-lock-left")
def _(world: Any) -> None:  # its pod was served
    world.annotation(LOCK, ago(world, seconds=10) + ",default,train")


@breaks("node-lock-left")
def _(world: Any) -> None:  # its pod is gone
    world.annotation(LOCK, ago(world, seconds=10) + ",default,gone")


@breaks("node-lock-left")
def _(world: Any) -> None:  # its pod is over
    locked_now(world)
    world.pod["status"]["phase"] = "Succeeded"


@harmless("node-lock-left")
def _(world: Any) -> None:  # nobody can say whether its pod is there
    def refused(*_: object) -> None:
        raise NotCheckedError("pods is forbidden")

    world.annotation(LOCK, ago(world, seconds=10) + ",default,gone")
    world.monkeypatch.setattr(type(world.scene.cluster), "pod", refused)


@breaks("handshake-deleted")
def _(world: Any) -> None:
    world.annotation("hami.io/node-handshake", f"Deleted_{stamp(world, minutes=9)}")


@breaks("handshake-unanswered")
def _(world: Any) -> None:
    world.annotation("hami.io/node-handshake-dcu", f"Requesting_{stamp(world, minutes=9)}")


@harmless("handshake-unanswered")
def _(world: Any) -> None:  # NVIDIA's agents do not answer; the other was asked just now
    world.annotation("hami.io/node-handshake", f"Requesting_{stamp(world, minutes=9)}")
    world.annotation("hami.io/node-handshake-dcu", f"Requesting_{stamp(world, seconds=20)}")


@breaks("handshake-unreadable")
def _(world: Any) -> None:
    world.annotation("hami.io/node-handshake-dcu", "Requesting_yesterday")


@breaks("registration-missing")
def _(world: Any) -> None:
    world.annotation("hami.io/node-nvidia-register", None)


@harmless("registration-missing")
def _(world: Any) -> None:  # kubelet alone hands out
    world.with_scene(allocation="standalone")
    world.annotation("hami.io/node-nvidia-register", None)


@breaks("registration-unreadable")
def _(world: Any) -> None:
    world.annotation("hami.io/node-nvidia-register", "[{")


@breaks("registration-disagrees")
def _(world: Any) -> None:
    world.node["status"]["allocatable"][GPU] = "1"


@breaks("registration-without-memory")
def _(world: Any) -> None:
    key = "hami.io/node-nvidia-register"
    text = world.node["metadata"]["annotations"][key]
    world.annotation(key, text.replace('"devmem":40960', '"devmem":0'))


@breaks("resource-not-allocatable")
def _(world: Any) -> None:
    world.node["status"]["allocatable"][GPU] = "0"


@breaks("resource-not-allocatable")
def _(world: Any) -> None:
    del world.node["status"]["allocatable"]


# --- pods ---


def pending(world: Any, phase: str, minutes: float) -> None:
    world.pod["status"]["phase"] = "Pending"
    bound = int((world.scene.now - timedelta(minutes=minutes)).timestamp())
    world.pod["metadata"]["annotations"] |= {
        "hami.io/bind-phase": phase,
        "hami.io/bind-time": str(bound),
    }


@breaks("pod-bind-failed")
def _(world: Any) -> None:
    pending(world, "failed", 1)


@breaks("pod-allocating-long")
def _(world: Any) -> None:
    pending(world, "allocating", 6)


@harmless("pod-allocating-long")
def _(world: Any) -> None:
    pending(world, "allocating", 4)


@harmless("pod-allocating-long")
def _(world: Any) -> None:  # served, and still pulling its image
    pending(world, "success", 30)


@breaks("pod-rejected")
def _(world: Any) -> None:
    world.pod["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError"}


@harmless("pod-rejected")
def _(world: Any) -> None:
    world.pod["status"] = {"phase": "Failed", "reason": "Evicted"}


@breaks("pod-without-grant")
def _(world: Any) -> None:
    del world.pod["metadata"]["annotations"]


@harmless("pod-without-grant")
def _(world: Any) -> None:
    world.with_scene(allocation="standalone")
    del world.pod["metadata"]["annotations"]


@breaks("pod-grant-incomplete")
def _(world: Any) -> None:  # HAMi 2.8 gives nothing to init containers
    init_asks(world)


@breaks("pod-grant-incomplete")
def _(world: Any) -> None:  # devices by position, for a container that asks for none
    world.pod["spec"]["containers"].insert(0, {"name": "mesh"})
    world.pod["spec"]["containers"].append(
        {"name": "second", "resources": {"limits": {GPU: "1"}}},
    )
    key = "hami.io/vgpu-devices-allocated"
    world.pod["metadata"]["annotations"][key] = "GPU-1,NVIDIA,1,1:;;;"


@harmless("pod-grant-incomplete")
def _(world: Any) -> None:  # HAMi 2.9 serves them
    init_asks(world)
    key = "hami.io/vgpu-devices-allocated"
    world.pod["metadata"]["annotations"][key] = "GPU-1,NVIDIA,8000,30:;GPU-1,NVIDIA,8000,30:;"


@breaks("pod-annotation-unreadable")
def _(world: Any) -> None:
    world.pod["metadata"]["annotations"]["hami.io/vgpu-devices-allocated"] = "GPU-1,NVIDIA:;"


@breaks("pod-sets-limits")
def _(world: Any) -> None:
    world.env("CUDA_DEVICE_MEMORY_LIMIT_0", "99999m")


@harmless("pod-sets-limits")
def _(world: Any) -> None:
    world.env("CUDA_VISIBLE_DEVICES", "0")


@breaks("pod-disables-control")
def _(world: Any) -> None:
    world.env("CUDA_DISABLE_CONTROL", "true")


@harmless("pod-disables-control")
def _(world: Any) -> None:
    world.env("CUDA_DISABLE_CONTROL", "yes")  # no truth value to those who read it


@breaks("pod-privileged")
def _(world: Any) -> None:
    world.container["securityContext"] = {"privileged": True}


@harmless("pod-privileged")
def _(world: Any) -> None:  # a neighbour without devices
    sidecar = {"name": "mesh", "securityContext": {"privileged": True}}
    world.pod["spec"]["containers"].append(sidecar)


@breaks("pod-sees-devices")
def _(world: Any) -> None:
    sidecar = {"name": "spy", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}
    world.pod["spec"]["containers"].append(sidecar)


@harmless("pod-sees-devices")
def _(world: Any) -> None:
    sidecar = {"name": "spy", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}]}
    world.pod["spec"]["containers"].append(sidecar)


@breaks("pod-own-preload")
def _(world: Any) -> None:
    world.container["volumeMounts"] = [{"name": "x", "mountPath": "/etc/ld.so.preload"}]


@harmless("pod-own-preload")
def _(world: Any) -> None:
    world.container["volumeMounts"] = [{"name": "x", "mountPath": "/usr/local/vgpu-data"}]


def init_asks(world: Any, **more: str) -> None:
    world.pod["status"]["phase"] = "Pending"
    world.pod["spec"]["initContainers"] = [
        {"name": "prepare", "resources": {"limits": {GPU: "1"}}, **more}
    ]


breaks("pod-init-container")(init_asks)


@harmless("pod-init-container")
def _(world: Any) -> None:
    init_asks(world, restartPolicy="Always")


@breaks("pod-init-only")
def _(world: Any) -> None:
    world.with_scene(allocation="scheduled-locked")
    init_asks(world)
    del world.container["resources"]


@harmless("pod-init-only")
def _(world: Any) -> None:
    world.with_scene(allocation="scheduled-locked")
    init_asks(world)


def another_plugin(image: str, path: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "gpu-operator", "name": "plugin-x", "uid": "uid-plugin"},
        "spec": {
            "nodeName": "n1",
            "containers": [
                {
                    "name": "c",
                    "image": image,
                    "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}],
                }
            ],
            "volumes": [{"name": "p", "hostPath": {"path": path}}],
        },
        "status": {"phase": "Running"},
    }


def competitor(world: Any) -> None:
    world.pods.append(another_plugin("nvidia/k8s-device-plugin:v0.18.0", PLUGINS))


breaks("plugin-competitor-pod")(competitor)
harmless("pod-sees-devices")(competitor)


@harmless("plugin-competitor-pod")
def _(world: Any) -> None:
    world.pods.append(another_plugin("mellanox/rdma-plugin:1", PLUGINS))
    world.pods.append(another_plugin("nvidia/dcgm-exporter:4", "/var/lib/kubelet/pod-resources"))


# --- grants ---


@breaks("grants-unreadable")
def _(world: Any) -> None:
    world.write("/run/deviceplugin/grants.json", "{")


@harmless("grants-unreadable")
def _(world: Any) -> None:
    world.path("/run/deviceplugin/grants.json").unlink()


@breaks("device-held-twice")
def _(world: Any) -> None:
    held = world.kubelet.held[0]
    world.kubelet.held.append(("default", "thief", *held[2:]))


@harmless("device-held-twice")
def _(world: Any) -> None:  # ids of an init container go on within the pod
    held = world.kubelet.held[0]
    world.kubelet.held.append((*held[:2], "sidecar", *held[3:]))


@breaks("grant-ids-differ")
def _(world: Any) -> None:
    world.record(ids=frozenset({"GPU-1-7"}))


@breaks("grant-ids-differ")
def _(world: Any) -> None:  # of an init container only the checkpoint tells
    world.kubelet.held.clear()
    world.record(init=True)
    world.remembers({GPU: ["GPU-1-0"]}, ids=["GPU-1-7"])


@breaks("grant-ids-differ")
def _(world: Any) -> None:  # PodResources does not answer
    world.path("/var/lib/kubelet/pod-resources/kubelet.sock").unlink()
    world.remembers({GPU: ["GPU-1-0"]}, ids=["GPU-1-7"])


@harmless("grant-ids-differ")
def _(world: Any) -> None:  # a namesake that is gone
    world.path("/var/lib/kubelet/pod-resources/kubelet.sock").unlink()
    world.remembers({GPU: ["GPU-1-0"]}, ids=["GPU-1-7"], uid="uid-former")


@breaks("grant-differs")
def _(world: Any) -> None:
    world.record(shares=(Share("GPU-1", 9000, 30),))


@breaks("grant-differs")
def _(world: Any) -> None:
    del world.pod["metadata"]["annotations"]["hami.io/vgpu-devices-allocated"]


@breaks("grant-unrecorded")
def _(world: Any) -> None:
    world.path("/run/deviceplugin/grants.json").unlink()


@harmless("grant-unrecorded")
def _(world: Any) -> None:  # another plugin's business
    world.kubelet.held.append(("default", "net", "main", "mellanox.com/rdma", ("0",)))


@breaks("grant-not-held")
def _(world: Any) -> None:
    world.kubelet.held.clear()


@harmless("grant-not-held")
def _(world: Any) -> None:  # kubelet never lists ordinary init containers
    world.kubelet.held.clear()
    world.record(init=True)


@breaks("grant-of-gone-pod")
def _(world: Any) -> None:
    world.pods.pop(0)


# --- system ---


@breaks("kernel-old")
def _(world: Any) -> None:
    world.write("/proc/sys/kernel/osrelease", "2.6.32-754.el6\n")


@harmless("kernel-old")
def _(world: Any) -> None:
    world.write("/proc/sys/kernel/osrelease", "3.10.0-1160.el7\n")


def file_limit(world: Any, number: int) -> None:
    world.monkeypatch.setattr(resource, "getrlimit", lambda _: (number, number))


@breaks("file-limit-low")
def _(world: Any) -> None:
    file_limit(world, 256)


@harmless("file-limit-low")
def _(world: Any) -> None:  # no limit at all
    file_limit(world, resource.RLIM_INFINITY)


@breaks("files-exhausted")
def _(world: Any) -> None:
    world.write("/proc/sys/fs/file-nr", "990000\t0\t1000000\n")


@breaks("inotify-low")
def _(world: Any) -> None:
    world.write("/proc/sys/fs/inotify/max_user_instances", "16\n")


@breaks("mounts-private")
def _(world: Any) -> None:
    world.replace("/proc/1/mountinfo", " shared:1", "")


@harmless("mounts-private")
def _(world: Any) -> None:  # kubelet's own mount is shared, whatever the root is
    world.replace("/proc/1/mountinfo", " shared:1", "")
    text = world.path("/proc/1/mountinfo").read_text()
    line = "30 20 8:2 / /var/lib/kubelet rw shared:9 - ext4 /dev/sdb rw\n"
    world.write("/proc/1/mountinfo", text + line)


@breaks("library-read-only")
def _(world: Any) -> None:
    text = world.path("/proc/1/mountinfo").read_text()
    world.write("/proc/1/mountinfo", f"{text}31 20 8:3 / /usr ro shared:8 - ext4 /dev/sdc ro\n")


@breaks("selinux-enforcing")
def _(world: Any) -> None:
    world.write("/sys/fs/selinux/enforce", "1")


# --- and the tests ---


def _cases(table: dict[str, list[Change]]) -> list[Any]:
    return [
        pytest.param(identity, change, id=f"{identity}-{position}" if position else identity)
        for identity, changes in table.items()
        for position, change in enumerate(changes)
    ]


def test_a_healthy_node_has_no_finding_and_everything_is_checked(world: Any) -> None:
    report = world.report()
    assert report.findings == ()
    assert report.skipped == ()
    assert report.topics == len(NODE_TOPICS)


@pytest.mark.parametrize(("identity", "change"), _cases(BREAKS))
def test_it_is_found(world: Any, identity: str, change: Change) -> None:
    change(world)
    report = world.report()
    found = [finding for finding in report.findings if finding.id == identity]
    assert found, [finding.id for finding in report.findings]
    assert all(finding.remedy and finding.what for finding in found)
    assert CHECK_FAILED.id not in {finding.id for finding in report.findings}


@pytest.mark.parametrize(("identity", "change"), _cases(HARMLESS))
def test_it_is_not_found_without_reason(world: Any, identity: str, change: Change) -> None:
    change(world)
    assert identity not in world.found()
    assert CHECK_FAILED.id not in world.found()


def test_every_finding_has_a_change_that_brings_it() -> None:
    assert set(BREAKS) == NODE_TOPICS
    assert set(HARMLESS) <= set(BREAKS)


def test_a_remedy_names_what_is_here(world: Any) -> None:
    world.annotation(LOCK, "nonsense")
    elsewhere(world)
    remedies = " ".join(finding.remedy for finding in world.report().findings)
    assert "kubectl annotate node n1 hami.io/mutex.lock-" in remedies
    assert "--nvidia-driver-root /run/nvidia/driver" in remedies


def test_a_vendor_that_is_asked_for_by_another_key_is_judged_by_it(world: Any) -> None:
    world.with_scene(resources=MappingProxyType({"hygon.com/dcunum": VENDORS["DCU"]}))
    assert "registration-missing" in world.found()


def test_the_node_is_left_as_it_was(world: Any) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in world.root.rglob("*")
        }

    litter = world.write("/run/deviceplugin/.grants.json.abc", "an agent is writing this now")
    before = state()
    world.report()
    assert state() == before
    assert litter.exists()


def test_what_cannot_be_read_is_no_crash(world: Any) -> None:
    world.path("/run/deviceplugin/grants.json").unlink()
    world.path("/run/deviceplugin/grants.json").mkdir()
    assert "grants-unreadable" in world.found()
