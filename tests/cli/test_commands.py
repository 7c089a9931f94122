"""The commands as people run them: output, exit codes, and what a mistake says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deviceplugin", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
    )


def test_the_demo_holds_and_ends_by_itself() -> None:
    done = run("demo")
    assert done.returncode == 0, done.stdout
    assert "left no socket" in done.stdout
    assert "✗" not in done.stdout


def test_the_demo_takes_ones_own_pod(tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(
        "metadata: {name: mine}\nspec: {containers: [{name: c, resources: "
        "{limits: {mock.deviceplugin.dev/gpu: 3}}}]}"
    )
    done = run("demo", "--profile", "l40s", "--pod", str(pod))
    assert done.returncode == 0, done.stdout
    assert "pod mine, container c" in done.stdout


def test_a_pod_that_does_not_fit_makes_the_demo_fail(tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(
        "metadata: {name: mine}\nspec: {containers: [{name: c, resources: "
        "{limits: {mock.deviceplugin.dev/gpu: 300}}}]}"
    )
    done = run("demo", "--pod", str(pod))
    assert done.returncode == 1
    assert "Requested: 300" in done.stdout


def test_devices_as_text_and_as_json() -> None:
    text = run("devices", "--vendors", "mock")
    assert text.returncode == 0
    assert len(text.stdout.splitlines()) == 3
    (answer,) = json.loads(run("devices", "--vendors", "mock", "-o", "json").stdout)
    assert answer["state"] == "ok"
    assert [device["memory_mib"] for device in answer["devices"]] == [16384, 16384]


@pytest.mark.parametrize(
    ("sharing", "word"),
    [("limited", "limited"), ("mps", "mps (cooperative)"), ("exclusive", "exclusive")],
)
def test_devices_say_how_they_are_shared(tmp_path: Path, sharing: str, word: str) -> None:
    config = tmp_path / "config.yaml"
    split = "" if sharing == "exclusive" else f", split: {{count: 4, sharing: {sharing}}}"
    config.write_text(f"mock: {{node: {{devices: [{{model: M}}]{split}}}}}")
    line = ["devices", "--vendors", "mock", "--config-file", str(config)]
    assert f" {word} " in run(*line).stdout
    (answer,) = json.loads(run(*line, "-o", "json").stdout)
    assert set(answer["sharing"].values()) == {word}


def test_an_unknown_vendor_is_named_with_those_there_are() -> None:
    done = run("devices", "--vendors", "nope")
    assert done.returncode == 1
    assert "nope" in done.stderr
    assert "mock" in done.stderr


def test_a_recording_replays_exactly(tmp_path: Path) -> None:
    profile, config = tmp_path / "node.yaml", tmp_path / "config.yaml"
    config.write_text("mock: {node: {devices: [{model: M}], usage: [{usedMiB: 5}]}}")
    recorded = run("record", "--vendor", "mock", "--config-file", str(config)).stdout
    assert yaml.safe_load(recorded)["usage"][0]["usedMiB"] == 5
    assert run("record", "--vendor", "mock", "--out", str(profile)).returncode == 0
    config.write_text(f"mock: {{profile: {profile}}}")
    shown = [
        run("devices", "--vendors", "mock", *more, "-o", "json", NODE_NAME="n").stdout
        for more in ((), ("--config-file", str(config)))
    ]
    first, second = (json.loads(text)[0]["devices"] for text in shown)
    assert [d["memory_mib"] for d in first] == [d["memory_mib"] for d in second]
    assert [d["links"].keys() for d in first] != [] != [d["links"] for d in second]


def test_generated_specifications_are_what_a_runtime_takes(tmp_path: Path) -> None:
    assert run("cdi", "generate", "--vendors", "mock", "--out", str(tmp_path)).returncode == 0
    (path,) = tmp_path.glob("*.json")
    assert run("cdi", "validate", str(path)).returncode == 0
    assert "mock.deviceplugin.dev/gpu=all" in run("cdi", "list", "--dir", str(tmp_path)).stdout


@pytest.mark.parametrize("arguments", [("serve", "--no-such-flag"), ("nonsense",), ("record",)])
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


def test_a_refused_configuration_is_1_and_says_all(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("flags: {migStrategy: both, plugin: {deviceIDStrategy: name}}")
    done = run("serve", "--config-file", str(path))
    assert done.returncode == 1
    assert "migStrategy" in done.stderr
    assert "deviceIDStrategy" in done.stderr


def test_help_names_every_command_without_importing_it() -> None:
    done = run("--help")
    for command in ("serve", "demo", "devices", "record", "mps", "cdi", "config", "version"):
        assert command in done.stdout
