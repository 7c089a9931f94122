"""The command as people run it: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from deviceplugin.cli.findings import RENDERERS
from deviceplugin.cli.main import cli
from deviceplugin.doctor.model import Finding, Report, Severity, Skipped

GOLDEN = Path(__file__).parent / "golden.txt"


def run(world: Any, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """As on that node, with its objects in a snapshot."""
    world.monkeypatch.setattr("platform.machine", lambda: "x86_64")
    snapshot = world.root / "snapshot.json"
    snapshot.write_text(json.dumps({"node": world.node, "pods": world.pods}))
    manifest = world.root / "manifest.json"
    libraries = [
        {"version": item.version, "machine": item.machine, "sha256": item.sha256}
        for item in world.scene.manifest.libraries
    ]
    manifest.write_text(json.dumps({"libraries": libraries}))
    config = world.root / "config.yaml"
    config.write_text("version: v1\nnvidia: {deviceSplitCount: 10}\n")
    common = [
        *("--host-root", str(world.root), "--node-name", "n1", "--config-file", str(config)),
        *("--allocation", "scheduled-deferred", "--device-list-strategy", "cdi-cri"),
        *("--snapshot", str(snapshot), "--manifest", str(manifest), "--no-probe"),
    ]
    clean = {"KUBECONFIG": None, "NODE_NAME": None, "COLUMNS": "100"}
    return CliRunner(env={**clean, **(env or {})}).invoke(cli, ["doctor", *common, *arguments])


def test_a_healthy_node_ends_with_0_and_one_line(world: Any) -> None:
    done = run(world)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("Not checked: devices: ")
    assert lines[-1].startswith("0 errors, 0 warnings, 0 notes; ")
    assert len(lines) == 2


def test_errors_end_with_1_and_warnings_too_when_strict(world: Any) -> None:
    world.write("/proc/sys/fs/inotify/max_user_instances", "16\n")
    assert run(world).exit_code == 0
    assert run(world, "--strict").exit_code == 1
    world.path("/dev/nvidia0").unlink()
    assert run(world).exit_code == 1
    assert run(world, "--only", "system").exit_code == 0


def test_the_table_is_the_one_that_people_know(world: Any) -> None:
    """Regenerate with care: golden.txt is what people read."""
    world.path("/usr/lib64/libcuda.so.1").unlink()
    world.path("/dev/nvidia0").unlink()
    world.write("/sys/fs/selinux/enforce", "1")
    world.annotation("hami.io/mutex.lock", "\x1b[31mnonsense,of,a,\tstranger")
    for name in "abcdefg":
        pod = json.loads(json.dumps(world.pod))
        pod["metadata"] |= {"name": f"job-{name}", "uid": f"uid-{name}", "annotations": {}}
        world.pods.append(pod)
    text = run(world).output
    assert "\x1b" not in text
    assert text.replace(str(world.root), "<root>") == GOLDEN.read_text()


def test_plain_lines_have_six_fields_and_json_has_everything(world: Any) -> None:
    world.path("/dev/nvidia0").unlink()
    lines = run(world, "-o", "plain").output.splitlines()
    findings = [line.split("\t") for line in lines if not line.startswith("skipped")]
    assert all(len(fields) == 6 for fields in findings)
    assert ["error", "driver-nodes-missing", "driver"] in [fields[:3] for fields in findings]
    document = json.loads(run(world, "-o", "json").output)
    assert {item["id"] for item in document["findings"]} == {fields[1] for fields in findings}
    assert document["counts"]["error"] == sum(fields[0] == "error" for fields in findings)


def test_explain_needs_nothing_else_to_be_right() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--explain", "node-lock-left"])
    assert done.exit_code == 0
    assert done.output.startswith("node-lock-left (error, group node)")
    unknown = CliRunner().invoke(cli, ["doctor", "--explain", "node-lock-lefd"])
    assert unknown.exit_code == 2
    assert "did you mean node-lock-left?" in unknown.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "moon"], "no group moon; known are config, driver"),
        (["--snapshot", "/nowhere.json"], "cannot be read"),
        (["--manifest", "/nowhere.json"], "cannot be read"),
        (["--kubeconfig", "/nowhere"], "kubeconfig /nowhere: No such file or directory"),
        (["--cluster"], "leave them out with --cluster"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--no-probe", *arguments])
    assert done.exit_code == 2
    assert says in done.output.replace("\n", " ")


def test_a_refused_configuration_is_a_finding_and_the_rest_is_checked(world: Any) -> None:
    world.write("/sys/fs/selinux/enforce", "0")
    done = run(world, "--mig-strategy", "maybe", "-o", "json")
    assert done.exit_code == 1
    document = json.loads(done.output)
    refused = [item for item in document["findings"] if item["id"] == "config-refused"]
    assert ["mig-strategy" in item["evidence"][0] for item in refused] == [True]
    assert document["lookedFor"] > 30


def test_without_a_way_to_an_api_server_it_says_so() -> None:
    env = {"KUBECONFIG": None, "KUBERNETES_SERVICE_HOST": None}
    done = CliRunner(env=env).invoke(cli, ["doctor", "--no-probe", "--only", "node"])
    assert done.exit_code == 0
    assert "no way to an API server" in done.output
    assert "set KUBECONFIG" in done.output.replace("\n  ", " ")


def test_the_drivers_are_asked_unless_told_otherwise() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--vendors", "mock,moon", "--only", "devices"])
    assert done.exit_code == 1
    assert "moon cannot be served" in done.output
    assert "mock cannot be served" not in done.output


def test_limits_that_processes_keep_by_themselves_are_a_note(tmp_path: Any) -> None:
    config = tmp_path / "config.yaml"
    split = "{count: 4, sharing: mps}"
    config.write_text(f"mock: {{node: {{devices: [{{model: M}}], split: {split}}}}}")
    line = ["doctor", "--only", "devices", "--vendors", "mock", "--config-file", str(config)]
    done = CliRunner().invoke(cli, [*line, "-o", "json"])
    assert "limits-cooperative" in done.output, done.output


@pytest.mark.parametrize(
    ("section", "name", "said"),
    [
        ("operatingMode: mps, mpsLimits: true", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", True),
        ("operatingMode: mps, mpsLimits: true", "CUDA_DEVICE_MEMORY_LIMIT_0", False),
        ("operatingMode: hami-core", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", False),
        ("operatingMode: hami-core", "CUDA_DEVICE_MEMORY_LIMIT_0", True),
    ],
)
def test_pods_may_not_set_the_variables_of_the_nodes_own_limits(
    world: Any, section: str, name: str, said: bool
) -> None:
    world.env(name, "1")
    config = world.root / "mode.yaml"
    config.write_text(f"nvidia: {{deviceSplitCount: 10, {section}}}\n")
    done = run(world, "--only", "pods", "--config-file", str(config))
    assert (name in done.output) == said, done.output


def test_one_remedy_stands_for_findings_of_one_sort() -> None:
    findings = tuple(
        Finding("x", "node", Severity.NOTE, f"matter {n}", (), "Do it.") for n in range(9)
    )
    text = click.unstyle(RENDERERS["table"](Report(findings, (Skipped("pods", "why"),), 3)))
    assert text.count("→ Do it.") == 1
    assert text.count("matter") == 4
    assert "... and 5 more of these" in text
    assert text.splitlines()[-1] == (
        "0 errors, 0 warnings, 9 notes; 3 things looked for, 1 group not checked."
    )
