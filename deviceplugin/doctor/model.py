"""Findings, what they mean, and groups of checks that make them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Finding", "Group", "NotCheckedError", "Report", "Severity", "Skipped", "Topic"]

F = TypeVar("F")


class Severity(enum.StrEnum):
    """How bad it is, worst first."""

    ERROR = "error"
    """Pods do not get what they ask for, or limits do not hold."""
    WARNING = "warning"
    """It works, but not as it should or not for long."""
    NOTE = "note"
    """Worth knowing."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong here. `id` is stable; `evidence` is what was seen, a line each."""

    id: str
    group: str
    severity: Severity
    what: str
    evidence: tuple[str, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of finding: `title` says it in a line, `meaning` why it matters, `remedy` what to do
    about it in general.
    """

    id: str
    group: str
    severity: Severity
    title: str
    meaning: str
    remedy: str

    def found(self, what: str, *evidence: str, remedy: str = "") -> Finding:
        """It is so here; `remedy` is what to do here."""
        return Finding(self.id, self.group, self.severity, what, evidence, remedy or self.remedy)


class NotCheckedError(Exception):
    """The facts of a group cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Group(Generic[F]):
    """Checks that go by the same facts. `gather` may do anything but change the node, and raises
    `NotCheckedError`; `checks` are pure.
    """

    name: str
    topics: tuple[Topic, ...]
    gather: Callable[[Any], F]
    checks: tuple[Callable[[F], Iterable[Finding]], ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A group that was not checked, and why."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, worst first; `topics` is the number of things looked for."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    topics: int

    def count(self, severity: Severity) -> int:
        """How many findings are so bad."""
        return sum(finding.severity is severity for finding in self.findings)
