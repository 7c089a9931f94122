"""Runs every group; what breaks one is a finding of its own and stops no other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from deviceplugin.doctor import (
    cdi,
    config,
    devices,
    driver,
    grants,
    kubelet,
    library,
    node,
    pods,
    runtime,
    system,
)
from deviceplugin.doctor.fleet import examine as fleet
from deviceplugin.doctor.model import (
    Finding,
    Group,
    NotCheckedError,
    Report,
    Severity,
    Skipped,
    Topic,
)

__all__ = ["CHECK_FAILED", "GROUPS", "catalogue", "examine"]

GROUPS: tuple[Group[Any], ...] = (
    config.GROUP,
    driver.GROUP,
    devices.GROUP,
    library.GROUP,
    runtime.GROUP,
    cdi.GROUP,
    kubelet.GROUP,
    node.GROUP,
    pods.GROUP,
    grants.GROUP,
    system.GROUP,
)
"""In the order in which devices reach containers."""

CHECK_FAILED = Topic(
    "check-failed",
    "doctor",
    Severity.WARNING,
    "A check ended with an error of its own.",
    "The program did not expect what it found here. All other checks were made; only what this one "
    "looks for is unknown.",
    "Report it with the evidence.",
)


def catalogue() -> dict[str, Topic]:
    """Everything that is looked for, on a node or in a cluster, by id."""
    groups = (*GROUPS, *fleet.GROUPS)
    topics = (CHECK_FAILED, *(topic for group in groups for topic in group.topics))
    return {topic.id: topic for topic in topics}


def examine(
    scene: Any, only: Collection[str] = (), groups: Sequence[Group[Any]] = GROUPS
) -> Report:
    """Look for everything, or for what the groups named by `only` look for. Blocking. `scene` is
    what these groups go by.
    """
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    topics = 0
    for group in groups:
        if only and group.name not in only:
            continue
        try:
            facts = group.gather(scene)
        except NotCheckedError as reason:
            skipped.append(Skipped(group.name, str(reason)))
            continue
        except Exception as error:
            findings.append(_failed(group, "collecting its facts", error))
            continue
        topics += len(group.topics)
        findings += _checked(group, facts)
    # By severity, in the order of the groups among equals: sorting is stable.
    findings.sort(key=lambda finding: finding.severity.rank)
    return Report(tuple(findings), tuple(skipped), topics)


def _checked(group: Group[Any], facts: Any) -> Iterator[Finding]:
    for check in group.checks:
        try:
            yield from tuple(check(facts))
        except Exception as error:
            yield _failed(group, check.__name__.strip("_").replace("_", " "), error)


def _failed(group: Group[Any], what: str, error: Exception) -> Finding:
    return CHECK_FAILED.found(
        f"a check of group {group.name} broke off: {what}",
        f"{type(error).__name__}: {error!s:.300}",
    )
