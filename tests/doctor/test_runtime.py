"""Runtimes' configurations, as their versions write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deviceplugin.doctor import runtime

TOML = "/etc/containerd/config.toml"
V1 = """
[plugins.cri]
  enable_cdi = true
  [plugins.cri.containerd]
    default_runtime_name = "nvidia"
    [plugins.cri.containerd.runtimes.nvidia]
      runtime_type = "io.containerd.runc.v2"
      [plugins.cri.containerd.runtimes.nvidia.options]
        BinaryName = "/usr/bin/nvidia-container-runtime"
"""
V2 = V1.replace("plugins.cri", 'plugins."io.containerd.grpc.v1.cri"').replace(
    "\n[", "\nversion = 2\n[", 1
)
V3 = V2.replace("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime").replace("= 2", "= 3")


def facts(world: Any) -> runtime.RuntimeFacts:
    return runtime.gather(world.scene)


def runs(world: Any, version: str) -> None:
    world.node["status"]["nodeInfo"]["containerRuntimeVersion"] = version


@pytest.mark.parametrize(("text", "generation"), [(V1, 1), (V2, 2), (V3, 3)])
def test_every_format_of_containerd_says_the_same(world: Any, text: str, generation: int) -> None:
    world.write(TOML, text)
    config = facts(world).config
    assert config.error == ""
    assert dict(config.handlers) == {"nvidia": "/usr/bin/nvidia-container-runtime"}
    assert (config.default, config.cdi, config.generation) == ("nvidia", True, generation)
    world.with_scene(strategies=("envvar", "cdi-cri"))
    assert world.found("runtime") == set()


@pytest.mark.parametrize(
    ("version", "text", "default"),
    [
        ("containerd://2.1.4", V2, "nvidia"),
        ("containerd://1.7.13", V2, "runc"),
        ("", V2, "runc"),
        ("", V3, "nvidia"),
    ],
)
def test_an_imported_file_wins_key_by_key_from_containerd_2_on_and_whole_before(
    world: Any, version: str, text: str, default: str
) -> None:
    runs(world, version)
    imports = 'imports = ["conf.d/*.toml"]\nversion = '
    section = "io.containerd.cri.v1.runtime" if text == V3 else "io.containerd.grpc.v1.cri"
    world.write(TOML, text.replace("version = ", imports))
    world.write(
        "/etc/containerd/conf.d/50-ours.toml", f'[plugins."{section}"]\nenable_cdi = false\n'
    )
    world.write("/etc/containerd/conf.d/notes.txt", "not [ toml")
    config = facts(world).config
    assert (config.cdi, config.default) == (False, default)


def test_a_broken_imported_file_is_named(world: Any) -> None:
    world.write(TOML, 'version = 2\nimports = ["/etc/containerd/conf.d/x.toml"]\n')
    world.write("/etc/containerd/conf.d/x.toml", "[[")
    assert world.found("runtime") == {"runtime-config-broken"}


@pytest.mark.parametrize(
    "text",
    [
        "plugins = 7\n",
        'plugins = {cri = 7}\nimports = 7\nversion = "two"\n',
        '[plugins."io.containerd.grpc.v1.cri"]\ncontainerd = []\nenable_cdi = "yes"\n',
        '[plugins."io.containerd.grpc.v1.cri".containerd]\nruntimes = {nvidia = 1}\n',
        "imports = [1, [2], {a = 3}]\n",
        "a = " + "[" * 5000 + "]" * 5000 + "\n",
    ],
)
def test_a_strange_configuration_breaks_no_check(world: Any, text: str) -> None:
    world.with_scene(strategies=("envvar", "cdi-cri"))
    world.write(TOML, text)
    assert "check-failed" not in world.found("runtime")


def test_k3s_has_a_place_of_its_own(world: Any) -> None:
    world.path(TOML).unlink()
    world.write("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", V3)
    assert facts(world).config.path.startswith("/var/lib/rancher/k3s/")


def test_drop_ins_of_cri_o_are_read_in_their_order(world: Any) -> None:
    runs(world, "cri-o://1.31.0")
    world.write("/etc/crio/crio.conf", '[crio.runtime]\ndefault_runtime = "runc"\n')
    for number, name in ((10, "crun"), (99, "nvidia")):
        world.write(
            f"/etc/crio/crio.conf.d/{number}-x.conf",
            f'[crio.runtime]\ndefault_runtime = "{name}"\n'
            f'[crio.runtime.runtimes.{name}]\nruntime_path = "/usr/bin/{name}"\n',
        )
    config = facts(world).config
    assert config.default == "nvidia"
    assert set(config.handlers) == {"crun", "nvidia"}
    assert world.found("runtime") == {"runtime-binary-missing"}


@pytest.mark.parametrize(
    ("version", "features", "found"),
    [
        ("docker://25.0.3", {}, {"runtime-cdi-off"}),
        ("docker://25.0.3", {"cdi": True}, set()),
        ("docker://28.2.1", {}, set()),
        ("docker://28.2.1", {"cdi": False}, {"runtime-cdi-off"}),
    ],
)
def test_docker_speaks_cdi_from_a_version_on_or_where_it_is_told(
    world: Any, version: str, features: dict[str, bool], found: set[str]
) -> None:
    runs(world, version)
    world.write("/etc/docker/daemon.json", json.dumps({"features": features}))
    assert world.found("runtime") == found


@pytest.mark.parametrize("text", ["[", "[1]", '{"runtimes": 3, "features": []}', ""])
def test_a_strange_file_of_docker_breaks_no_check(world: Any, text: str) -> None:
    runs(world, "docker://28.2.1")
    world.write("/etc/docker/daemon.json", text)
    assert world.found("runtime") <= {"runtime-config-broken"}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (
            {
                "/var/lib/kubelet/config.yaml": 'containerRuntimeEndpoint: "unix:///run/crio/crio.sock"'
            },
            "cri-o",
        ),
        (
            {
                "/var/lib/kubelet/kubeadm-flags.env": 'A="--container-runtime-endpoint=unix:///run/cri-dockerd.sock --x"'
            },
            "docker",
        ),
        ({"/run/k3s/containerd/containerd.sock": ""}, "containerd"),
        ({"/etc/crio/crio.conf": ""}, "cri-o"),
        ({"/etc/docker/daemon.json": "{}"}, "docker"),
        ({}, ""),
    ],
)
def test_the_runtime_is_known_without_an_api_server(
    world: Any, files: dict[str, str], kind: str
) -> None:
    world.with_scene(cluster=None)
    world.path(TOML).unlink()
    for path, text in files.items():
        world.write(path, text)
    assert facts(world).kind == kind
