"""``deviceplugin config check`` and the options that every command shares."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from deviceplugin.cli.config import config, config_options
from deviceplugin.config import OPTIONS

Write = Callable[[str, str], Path]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name in (name for option in OPTIONS for name in option.env):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NODE_NAME", "node-a")

    def run(*args: str, **env: str) -> Result:
        return CliRunner().invoke(config, ["check", *map(str, args)], env=env)

    return run


def rows(result: Result) -> dict[str, tuple[str, str]]:
    found = {}
    for line in result.stdout.splitlines()[1:]:
        key, rest = line.split(maxsplit=1)
        value, source = rest.rsplit("  ", 1)
        found[key] = (value.strip(), source.strip())
    return found


def test_prints_every_value_with_its_source(run: Any, write: Write) -> None:
    file = write(
        "a.yaml", "flags: {migStrategy: single}\nnvidia: {deviceSplitCount: 4}\nacme: {x: [1]}"
    )
    overrides = write("c.json", '{"nodeconfig": [{"name": "node-a", "devicecorescaling": 2}]}')
    result = run(file, "--config-json", overrides, "--gds-enabled", GDRCOPY_ENABLED="true")
    assert result.exit_code == 0, result.output
    found = rows(result)
    assert found["flags.migStrategy"] == ("single", str(file))
    assert found["flags.gdsEnabled"] == ("true", "--gds-enabled")
    assert found["flags.gdrcopyEnabled"] == ("true", "GDRCOPY_ENABLED (environment)")
    assert found["flags.mofedEnabled"] == ("false", "default")
    assert found["nvidia.deviceSplitCount"] == ("4", str(file))
    assert found["nvidia.deviceCoreScaling"] == ("2", str(overrides))
    assert found["nvidia.deviceMemoryScaling"] == ("1", "default")
    assert found["acme.x"] == ("[1]", str(file))
    assert found["node_name"] == ("node-a", "NODE_NAME (environment)")
    assert {option.key for option in OPTIONS if option.key} <= set(found)


def test_a_valid_file_with_oddities_ends_with_0_and_warns(run: Any, write: Write) -> None:
    result = run(write("a.yaml", "flags: {migStratgy: none}"), "--config-json=")
    assert result.exit_code == 0
    assert "warning:" in result.stderr
    assert "did you mean migStrategy?" in result.stderr


def test_a_refused_file_ends_with_1_and_lists_all_problems(run: Any, write: Write) -> None:
    result = run(write("a.yaml", "flags: {migStrategy: 1, gdsEnabled: 2}"), "--config-json=")
    assert result.exit_code == 1
    assert result.stderr.count("problem:") == 2
    assert "refused: 2 problem(s)" in result.stderr
    assert result.stdout == ""


def test_wrong_usage_ends_with_2(run: Any) -> None:
    assert run("--mig-stratgy=none").exit_code == 2
    assert run("-o", "xml").exit_code == 2


def test_json_holds_values_warnings_and_problems(run: Any, write: Write) -> None:
    text = """
    flags: {mpsRoot: /mps}
    oops: 1
    sharing: {mps: {resources: [{name: gpu, replicas: 3}]}}
    """
    good = json.loads(run(write("a.yaml", text), "--config-json=", "-o", "json").stdout)
    assert good["valid"] is True
    assert good["values"]["flags.plugin.deviceListStrategy"] == {
        "value": ["envvar"],
        "source": "default",
    }
    shared = good["values"]["sharing.mps[nvidia.com/gpu]"]
    assert shared["value"] == {
        "replicas": 3,
        "failRequestsGreaterThanOne": True,
        "renamed": False,
    }
    assert shared["source"].endswith("a.yaml")
    assert [warning["path"] for warning in good["warnings"]] == ["oops"]
    result = run(write("b.yaml", "version: v9"), "--config-json=", "-o", "json")
    bad = json.loads(result.stdout)
    assert (result.exit_code, bad["valid"], bad["values"]) == (1, False, {})
    assert bad["problems"] == [
        {
            "source": str(bad["problems"][0]["source"]),
            "path": "version",
            "value": "v9",
            "rule": "unknown version",
            "remedy": "write version: v1",
        }
    ]


def test_a_relative_file_is_found_where_the_command_runs(
    run: Any, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write("a.yaml", "flags: {migStrategy: mixed}").parent)
    result = run("a.yaml", "--config-json=")
    assert rows(result)["flags.migStrategy"] == ("mixed", "a.yaml")


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--pass-device-specs"], "pass_device_specs", "true"),
        (["--pass-device-specs=false"], "pass_device_specs", "false"),
        (["--pass-device-specs", "--mig-strategy=none"], "pass_device_specs", "true"),
        (["--device-list-strategy", "a", "--device-list-strategy=b,c"], "device_list_strategy",
         ("a", "b,c")),
        (["--driver-root=/x"], "nvidia_driver_root", "/x"),
        (["--nvidia-driver-root=/x"], "nvidia_driver_root", "/x"),
        (["-v=4"], "v", "=4"),
        (["-v", "4"], "v", "4"),
        (["--v=4"], "v", "4"),
        (["--disable-core-limit=false"], "disable_core_limit", "false"),
        ([], "mig_strategy", None),
        ([], "vendors", ()),
    ],
)  # fmt: skip
def test_flags_reach_the_command_as_they_were_written(
    args: list[str], name: str, value: object
) -> None:
    seen: dict[str, object] = {}

    @click.command()
    @config_options
    def command(**values: object) -> None:
        seen.update(values)

    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    assert seen[name] == value
    assert set(seen) == {option.name for option in OPTIONS}


def test_the_chart_of_hami_starts_with_its_own_arguments(run: Any, write: Write) -> None:
    file = write("device-config.yaml", "nvidia: {deviceSplitCount: 10, deviceMemoryScaling: 1}")
    result = run(
        f"--config-file={file}", "--mig-strategy=none", "--disable-core-limit=false", "-v=4",
        "--config-json=",
        DEVICE_LIST_STRATEGY="envvar", HOOK_PATH="/usr/local", PASS_DEVICE_SPECS="false",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert rows(result)["nvidia.disableCoreLimit"] == ("false", "--disable-core-limit")
    assert rows(result)["agent.log.level"][0] == "info"


def test_help_names_flag_variable_and_default_of_every_option() -> None:
    result = CliRunner().invoke(
        config, ["check", "--help"], env={"COLUMNS": "400"}, terminal_width=400
    )
    for option in OPTIONS:
        assert all(flag in result.output for flag in option.flags)
        assert all(name in result.output for name in option.env)
    assert os.linesep
