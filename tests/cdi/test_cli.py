"""The command ``cdi``: output, exit codes, and how it is explained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deviceplugin.cli.cdi import cdi

Put = Callable[..., Path]
DEVICE = "vendor.com/device=dev1"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cdi, [str(argument) for argument in arguments])


def test_devices_are_listed_in_plain_columns_where_no_terminal_is(tmp_path: Path, put: Put) -> None:
    path = put("low/a.json", {"dev2": {"env": ["A=1"]}, "dev1": {"env": ["A=1"]}})
    put("high/a.json", {"dev2": {"env": ["A=1"]}}, cdiVersion="0.3.0")
    result = run("list", "--dir", tmp_path / "low", "--dir", tmp_path / "high")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["DEVICE", "CDI", "FILE"],
        [DEVICE, "1.1.0", str(path)],
        ["vendor.com/device=dev2", "0.3.0", str(tmp_path / "high/a.json")],
    ]
    assert result.stderr == ""


def test_a_broken_file_is_told_beside_the_list_and_by_the_exit_code(
    tmp_path: Path, put: Put
) -> None:
    put("a.json", {"dev1": {"env": ["A=1"]}})
    broken = put("b.json", {"dev2": {"env": ["=1"]}})
    result = run("list", "--dir", tmp_path)
    assert result.exit_code == 1
    assert DEVICE in result.stdout
    assert f"{broken}: devices[0].containerEdits.env[0] '=1'" in result.stderr


def test_the_list_as_json_holds_devices_and_errors(tmp_path: Path, put: Put) -> None:
    one = put("a.json", {"dev1": {"env": ["A=1"]}, "dev2": {"env": ["A=1"]}})
    two = put("b.json", {"dev1": {"env": ["A=1"]}})
    result = run("list", "--dir", tmp_path, "-o", "json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["devices"] == [
        {"name": "vendor.com/device=dev2", "cdiVersion": "1.1.0", "path": str(one)}
    ]
    assert sorted(data["errors"]) == [str(one), str(two)]
    assert "conflicting device" in data["errors"][str(one)][0]


def test_an_empty_list_is_well(tmp_path: Path) -> None:
    result = run("list", "--dir", tmp_path / "missing", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"devices": [], "errors": {}})


def test_valid_files_are_said_to_be_valid(put: Put) -> None:
    path = put("a.json", {"dev1": {"env": ["A=1"]}})
    result = run("validate", path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: valid\n", "")


def test_every_finding_in_every_file_is_told(put: Put, tmp_path: Path) -> None:
    good = put("good.json", {"dev1": {"env": ["A=1"]}})
    unread = put("unread.json", {"dev1": {"env": ["A", "B"]}})
    careless = put("careless.json", {"dev1": {"deviceNodes": [{"path": "x", "fileMode": 0}]}})
    result = run("validate", unread, good, careless, tmp_path / "missing.yaml")
    assert result.exit_code == 1
    assert result.stdout == f"{good}: valid\n"
    place = "devices[0].containerEdits"
    starts = [
        f"{unread}: {place}.env[0] 'A'",
        f"{unread}: {place}.env[1] 'B'",
        f"{careless}: {place}.deviceNodes[0].path 'x'",
        f"{careless}: {place}.deviceNodes[0].fileMode '0'",
        f"{tmp_path / 'missing.yaml'}: cannot be read: no such file",
    ]
    lines = result.stderr.splitlines()
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_resolving_prints_the_edits_of_all_devices_together(tmp_path: Path, put: Put) -> None:
    put(
        "a.json",
        {"dev1": {"env": ["A=1"]}, "dev2": {"env": ["A=2"]}},
        containerEdits={"env": ["C="]},
    )
    result = run("resolve", "--dir", tmp_path, DEVICE, "vendor.com/device=dev2", DEVICE)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"env": ["C=", "A=2"]}


def test_an_unresolvable_device_is_told_with_what_is_wrong_with_the_files(
    tmp_path: Path, put: Put
) -> None:
    broken = put("a.json", {"dev1": {}})
    result = run("resolve", "--dir", tmp_path, DEVICE, "nonsense")
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first == f"unresolvable CDI devices {DEVICE}, nonsense"
    assert second.startswith(str(broken))


@pytest.mark.parametrize(
    "arguments", [["validate"], ["resolve"], ["list", "-o", "xml"], ["list", "--dri", "/x"], ["x"]]
)
def test_wrong_usage_has_its_own_exit_code(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["list", "validate", "resolve"])
def test_the_exit_codes_are_in_the_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "Exit codes: 0 all well, 1 " in text
    assert "2 wrong usage" in text


@pytest.mark.parametrize("name", ["spec.yml", "spec", "spec.json.tmp"])
def test_a_file_that_runtimes_overlook_for_its_name_is_a_finding(put: Put, name: str) -> None:
    path = put(name, {"dev1": {"env": ["A=1"]}})
    result = run("validate", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{path}: runtimes overlook it; let its name end in .json or .yaml\n"


START = "import sys; from deviceplugin.cli.cdi import cdi; "


@pytest.mark.parametrize("arguments", [["list", "--dir", "."], ["validate", "\udcff.json"]])
def test_a_file_name_that_is_no_text_is_shown_where_only_text_can_be(
    tmp_path: Path, put: Put, arguments: list[str]
) -> None:
    put("\udcff.json", {"dev1": {"env": ["A=1"]}})
    command = [sys.executable, "-c", START + "cdi()", *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert "\ufffd.json" in done.stdout.decode()
    assert done.stderr == b""


def test_what_a_command_does_not_need_is_not_loaded(tmp_path: Path) -> None:
    def loaded(code: str) -> set[str]:
        tell = "import atexit; atexit.register(lambda: print('loaded', *sys.modules)); "
        command = [sys.executable, "-c", START + tell + code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("loaded ")]
        return set(line.split())

    unwanted = {"rich", "yaml", "grpc"}
    assert not loaded("") & {"deviceplugin.cdi", *unwanted}
    listing = loaded(f"cdi(['list', '--dir', {str(tmp_path)!r}])")
    assert "deviceplugin.cdi" in listing
    assert not listing & unwanted


def on_terminal(columns: int, *arguments: object) -> str:
    """What somebody sees who runs the command at a terminal of this width."""
    leader, follower = os.openpty()
    command = [sys.executable, "-c", START + "cdi()", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    subprocess.run(command, stdout=follower, env=environment, check=True)
    os.close(follower)
    shown = b""
    try:
        while data := os.read(leader, 4096):
            shown += data
    except OSError:
        pass  # how a terminal says that its other end is closed
    finally:
        os.close(leader)
    return shown.decode()


def test_on_a_terminal_a_table_shows_names_as_they_are(tmp_path: Path, put: Put) -> None:
    path = put("a[red].json", {"dev1": {"env": ["A=1"]}})
    header, row = on_terminal(500, "list", "--dir", tmp_path).splitlines()
    assert "\x1b[1m" in header
    assert row.split() == [DEVICE, "1.1.0", str(path)]


def test_on_a_narrow_terminal_nothing_of_a_name_or_path_is_cut_off(
    tmp_path: Path, put: Put
) -> None:
    name, kind = "GPU-6f5e1c3a-0b7d-4e2f-9a8c-1d2e3f4a5b6c", "k8s.vendor.com/device"
    path = put("k8s.vendor.com-device.json", {name: {"env": ["A=1"]}}, kind=kind)
    _, *lines = on_terminal(60, "list", "--dir", tmp_path).splitlines()
    cells = [(line + " " * 60).split("  ") for line in lines]
    assert all(len(line) <= 60 for line in lines)
    assert len(lines) > 1
    assert "".join(row[0].strip() for row in cells) == f"{kind}={name}"
    assert "".join(line.split()[-1] for line in lines).endswith(path.name)
