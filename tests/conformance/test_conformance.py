"""The conformance checks themselves: a sound vendor passes, each broken one fails its own check and
no other, every installed vendor keeps what it promises, and people are told what to do.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from deviceplugin import registry
from deviceplugin.cli.main import cli
from deviceplugin.testing.conformance.broken import SOUND, VENDORS
from deviceplugin.testing.conformance.checks import CHECKS
from deviceplugin.testing.conformance.model import Check
from deviceplugin.testing.conformance.run import examined, run
from deviceplugin.testing.conformance.subject import SubjectError, subject
from deviceplugin.vendor import Vendor

pytest_plugins = ["pytester"]

BROKEN = [
    pytest.param(check, vendor, id=f"{check}-{vendor.node.rpartition(':')[2]}{number}")
    for check, vendors in VENDORS.items()
    for number, vendor in enumerate(vendors)
]
ABSENT = {"wheel-only"}
"""Checks whose broken vendor cannot be shipped, and is made in a test below."""

COUNTS_CORES = VENDORS["limits"][1].scheduling
HOST_ROOT = [check for check in CHECKS if check.id == "host-root"]
OWN_PROFILES = [v.name for v in registry.load().vendors.values() if v.profile]


def failing(check: str, vendor: Vendor) -> list[str]:
    """Only who hangs has to be waited for, and that not for long."""
    seconds = 5.0 if check == "no-driver" else 120.0
    found = subject(vendor.name, vendor=vendor, deadline_seconds=seconds)
    return [result.check.id for result in run(found) if result.failed]


def test_a_sound_vendor_keeps_every_promise() -> None:
    results = list(run(subject("sound", vendor=SOUND)))
    assert [(r.check.id, r.wrong) for r in results if r.failed] == []
    assert {r.check.id for r in results if r.skipped} == {"node-annotations", "read-back"}


@pytest.mark.parametrize(("check", "vendor"), BROKEN)
def test_a_broken_vendor_fails_its_own_check_and_no_other(check: str, vendor: Vendor) -> None:
    assert failing(check, vendor) == [check]


def test_every_check_has_a_vendor_that_fails_it() -> None:
    assert {check.id for check in CHECKS} == VENDORS.keys() | ABSENT


def test_a_vendor_that_only_its_own_directory_can_import_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "from deviceplugin.testing.conformance.broken.sound import Node\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    vendor = Vendor(
        name="sound",
        node="only_here:Node",
        resource=SOUND.resource,
        presence=SOUND.presence,
        scheduling=SOUND.scheduling,
        profile=SOUND.profile,
    )
    found = subject("sound", vendor=vendor)
    (check,) = (check for check in CHECKS if check.id == "wheel-only")
    assert "only_here" in examined(found, check).wrong[0]


def also(body: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    """A sound vendor whose node half has this method of its own."""
    source = (
        f"from deviceplugin.testing.conformance.broken import sound\nclass Node(sound.Node):{body}"
    )
    (directory / "also_sound.py").write_text(source)
    monkeypatch.delitem(sys.modules, "also_sound", raising=False)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return replace(SOUND, node="also_sound:Node")


def test_what_a_discovery_prints_is_no_place_that_it_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
    def discover(self):
        print('driver 1.2.3', flush=True)
        return super().discover()
"""
    (result,) = run(subject("sound", vendor=also(body, tmp_path, monkeypatch)), HOST_ROOT)
    assert (result.wrong, result.skipped) == ((), "")


def test_a_share_of_one_percent_can_be_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
    def plan(self, snapshot):
        split = sound.Split(count=100, separator="-", sharing=sound.Sharing.LIMITED)
        return [sound.ResourcePlan(p.resource, p.devices, split, p.keys) for p in
                super().plan(snapshot)]

    def edits(self, grants, owner):
        cores = {f"SOUND_CORES_{i}": str(g.cores_percent) for i, g in enumerate(grants)}
        edits = super().edits(grants, owner)
        return sound.ContainerEdits({**edits.env, **cores}, edits.device_nodes)
"""
    vendor = replace(also(body, tmp_path, monkeypatch), scheduling=COUNTS_CORES)
    limits = [check for check in CHECKS if check.id == "limits"]
    (result,) = run(subject("sound", vendor=vendor), limits)
    assert (result.wrong, result.skipped) == ((), "")


def test_a_node_that_offers_nothing_forgets_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration may have put all devices aside."""
    body = """
    def plan(self, snapshot):
        return []
"""
    words = [check for check in CHECKS if check.id == "words"]
    (result,) = run(subject("sound", vendor=also(body, tmp_path, monkeypatch)), words)
    assert not result.wrong
    assert "no resource has keys" in result.skipped


def test_the_hosts_root_may_be_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    (result,) = run(subject("sound", vendor=SOUND), HOST_ROOT)
    assert (result.wrong, result.skipped) == ((), "")


@pytest.mark.parametrize("name", OWN_PROFILES)
def test_built_in_vendors_conform(name: str) -> None:
    wrong = {r.check.id: r.wrong for r in run(subject(name)) if r.failed}
    assert wrong == {}


SHARED = {
    "nvidia": {"deviceSplitCount": 10},
    "kunlunxin": {"sharedDevices": "all"},
    "iluvatar": {"iluvatar": {}, "deviceSplitCount": 10, "limitLibrary": "/opt/limit.so"},
    "metax": {"sgpu": "on", "sharedDevices": "all"},
}


@pytest.mark.parametrize("name", SHARED)
def test_they_conform_when_cards_are_shared_too(name: str) -> None:
    section = {k: v for k, v in SHARED[name].items() if k != name}
    wrong = {r.check.id: r.wrong for r in run(subject(name, section=section)) if r.failed}
    assert wrong == {}


def test_the_mock_conforms_with_a_shipped_profile() -> None:
    profile = Path("vendors/mock/profiles/dgx-a100.yaml").resolve()
    assert [r.check.id for r in run(subject("mock", profile)) if r.failed] == []


def test_a_check_that_raises_is_a_finding_with_the_place() -> None:
    def explode(_: object) -> list[str]:
        raise ZeroDivisionError("by zero")

    result = examined(subject("sound", vendor=SOUND), Check("x", "what", "why", explode))
    assert result.failed
    assert "ZeroDivisionError: by zero" in result.wrong[0]
    assert "test_conformance.py" in result.wrong[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acmee", "neither an installed vendor"),
        ("json", "write module:ATTRIBUTE"),
        ("json:loads", "not a deviceplugin Vendor"),
        ("deviceplugin.no.such", "nor a module"),
    ],
)
def test_what_cannot_be_examined_is_explained(name: str, said: str) -> None:
    with pytest.raises(SubjectError, match=said):
        subject(name)


def test_a_vendor_without_profile_is_told_how_to_get_one() -> None:
    vendor = Vendor("bare", "a:b", "a.example.com/b")
    with pytest.raises(SubjectError, match="deviceplugin record"):
        subject("bare", vendor=vendor)


# --- the command -------------------------------------------------------------------------------


def test_the_command_tells_what_is_broken_and_why_it_matters() -> None:
    name = "deviceplugin.testing.conformance.broken.vendors:_vendor"
    result = CliRunner().invoke(cli, ["conformance", name])
    assert result.exit_code == 2
    assert "not a deviceplugin Vendor" in result.output
    sound = "deviceplugin.testing.conformance.broken:SOUND"
    result = CliRunner().invoke(cli, ["conformance", sound, "--check", "edits", "--check", "cdi"])
    assert result.exit_code == 0, result.output
    assert "sound: 2 promises kept, 0 broken, 0 not checked" in result.output


def test_the_command_answers_as_json_and_by_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import deviceplugin.testing.conformance.broken as broken

    monkeypatch.setattr(broken, "SOUND", VENDORS["limits"][0])
    name = "deviceplugin.testing.conformance.broken:SOUND"
    result = CliRunner().invoke(cli, ["conformance", name, "-o", "json", "--check", "limits"])
    assert result.exit_code == 1
    (check,) = json.loads(result.output)["checks"]
    assert check["result"] == "broken"
    assert "no difference" in check["wrong"][0]
    text = CliRunner().invoke(cli, ["conformance", name, "--check", "limits"]).output
    assert "Otherwise: shares are sold that nothing holds apart." in text


def test_the_command_lists_its_checks() -> None:
    result = CliRunner().invoke(cli, ["conformance", "--list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [c.id for c in CHECKS]


def test_without_a_vendor_it_is_asked_for() -> None:
    result = CliRunner().invoke(cli, ["conformance"])
    assert result.exit_code == 2
    assert "name a vendor, or say --list" in result.output


def test_a_profile_that_cannot_be_used_is_named_once(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("kind: Nothing\n")
    sound = "deviceplugin.testing.conformance.broken:SOUND"
    result = CliRunner().invoke(cli, ["conformance", sound, "--profile", str(profile)])
    assert result.exit_code == 2
    assert result.output.count(str(profile)) == 1


def test_an_unknown_check_is_named() -> None:
    result = CliRunner().invoke(cli, ["conformance", "mock", "--check", "edit"])
    assert result.exit_code == 2
    assert "no check 'edit'" in result.output


# --- a stranger's own suite ----------------------------------------------------------------------


def test_a_strangers_suite_runs_each_check_as_a_test(pytester: pytest.Pytester) -> None:
    """In a repository that has its own folder called api."""
    (pytester.mkdir("api") / "__init__.py").write_text("raise ImportError('not ours')\n")
    pytester.makeini(
        "[pytest]\ndeviceplugin_vendor = deviceplugin.testing.conformance.broken:SOUND\n"
    )
    pytester.makepyfile("def test_conformance(conformance_check):\n    conformance_check()\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(passed=len(CHECKS) - 2, skipped=2)


def test_a_suite_may_examine_with_a_configuration(pytester: pytest.Pytester) -> None:
    """NVIDIA's cards are known to schedulers only where they are shared."""
    pytester.makefile(".yaml", section="deviceSplitCount: 10\n")
    pytester.makeini(
        "[pytest]\ndeviceplugin_vendor = nvidia\ndeviceplugin_section = section.yaml\n"
    )
    pytester.makepyfile("def test_conformance(conformance_check):\n    conformance_check()\n")
    arguments = ("-p", "no:cacheprovider", "-p", "no:xdist", "-k", "keys or words")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=2, deselected=len(CHECKS) - 2)


def test_a_suite_that_names_no_vendor_is_told_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(conformance_check):\n    conformance_check()\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-x")
    result.stdout.fnmatch_lines(["*deviceplugin_vendor = NAME*"])
