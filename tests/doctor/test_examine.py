"""One check's trouble is its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deviceplugin.doctor.examine import CHECK_FAILED, GROUPS, examine
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic

ONE = Topic("one-thing", "g", Severity.NOTE, "One.", "Means one.", "Do one.")
BAD = Topic("bad-thing", "g", Severity.ERROR, "Bad.", "Means bad.", "Do bad.")


def fine(_: Any) -> Iterator[Finding]:
    yield ONE.found("one", "seen")


def worse(_: Any) -> Iterator[Finding]:
    yield BAD.found("bad", remedy="here so")


def breaks(_: Any) -> Iterator[Finding]:
    yield ONE.found("before the break")
    raise KeyError("metadata")


def group(*checks: Any, gather: Any = lambda scene: scene) -> Group[Any]:
    return Group("g", (ONE, BAD), gather, checks)


def test_a_check_that_raises_is_a_finding_and_stops_nothing(world: Any) -> None:
    report = examine(world.scene, groups=(group(breaks, fine), group(worse)))
    assert [finding.id for finding in report.findings] == ["bad-thing", "check-failed", "one-thing"]
    failed = report.findings[1]
    assert failed.evidence == ("KeyError: 'metadata'",)
    assert "breaks" in failed.what


def test_facts_that_cannot_be_collected_stop_only_their_group(world: Any) -> None:
    def gather(_: Any) -> None:
        raise RuntimeError("boom")

    report = examine(world.scene, groups=(group(fine, gather=gather), group(worse)))
    assert [finding.id for finding in report.findings] == ["bad-thing", CHECK_FAILED.id]
    assert report.findings[1].evidence == ("RuntimeError: boom",)


def test_a_group_that_is_not_checked_says_why_and_counts_nothing(world: Any) -> None:
    def gather(_: Any) -> None:
        raise NotCheckedError("nobody to ask")

    report = examine(world.scene, groups=(group(fine, gather=gather),))
    assert (report.findings, report.topics) == ((), 0)
    assert [(skipped.group, skipped.reason) for skipped in report.skipped] == [
        ("g", "nobody to ask")
    ]


def test_a_remedy_of_its_own_replaces_the_general_one(world: Any) -> None:
    report = examine(world.scene, groups=(group(fine, worse),))
    assert [finding.remedy for finding in report.findings] == ["here so", "Do one."]


def test_only_the_named_groups_are_looked_at(world: Any) -> None:
    def gather(_: Any) -> None:
        raise AssertionError("not to be asked")

    other = Group("other", (), gather, ())
    assert examine(world.scene, ("g",), (group(worse), other)).topics == 2


def test_without_an_api_server_three_groups_are_not_checked_for_one_reason(world: Any) -> None:
    world.with_scene(cluster=None)
    report = world.report()
    assert {skipped.group for skipped in report.skipped} == {"node", "pods", "grants"}
    assert {skipped.reason for skipped in report.skipped} == {"no way to an API server"}
    assert report.findings == ()


def test_a_host_without_anything_breaks_no_check(world: Any, tmp_path: Any) -> None:
    world.with_scene(root=tmp_path, answers=None, cluster=None)
    found = {finding.id for finding in world.report().findings}
    assert CHECK_FAILED.id not in found
    assert "kubelet-socket-missing" in found


def test_every_group_of_the_program_is_named_once() -> None:
    assert len({item.name for item in GROUPS}) == len(GROUPS)
