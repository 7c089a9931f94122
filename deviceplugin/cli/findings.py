"""The doctor's findings on a terminal, for ``cut`` and ``awk``, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from shutil import get_terminal_size

import click

from deviceplugin.cli.text import WIDEST, clean, dim, several, wrapped
from deviceplugin.doctor.examine import GROUPS
from deviceplugin.doctor.fleet import examine as fleet
from deviceplugin.doctor.model import Finding, Report, Severity, Topic

__all__ = ["RENDERERS", "explained", "summary"]

ALIKE = 4
"""Findings of one sort that are shown one by one."""

_SIGNS = {Severity.ERROR: "✗", Severity.WARNING: "!", Severity.NOTE: "·"}
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def summary(report: Report) -> str:
    """Everything in one line."""
    counts = [several(report.count(severity), severity.value) for severity in Severity]
    text = f"{', '.join(counts)}; {report.topics} things looked for"
    if report.skipped:
        text += f", {several(len(report.skipped), 'group')} not checked"
    return f"{text}."


def table(report: Report) -> str:
    """For people: by group, the worst first, and the summary at the end."""
    width = min(get_terminal_size().columns, WIDEST)
    lines: list[str] = []
    for group in _worst_first(report.findings):
        lines.append(click.style(group, bold=True))
        here = [finding for finding in report.findings if finding.group == group]
        for _, alike in groupby(here, key=lambda finding: finding.id):
            lines += _alike(tuple(alike), width)
        lines.append("")
    reasons: dict[str, list[str]] = {}
    for skipped in report.skipped:
        reasons.setdefault(skipped.reason, []).append(skipped.group)
    for reason, groups in reasons.items():
        lines += wrapped(f"Not checked: {', '.join(groups)}: {clean(reason)}.", width, "", "  ")
    if report.findings:
        lines.append("`deviceplugin doctor --explain ID` says what a finding means.")
    return "\n".join([*lines, click.style(summary(report), bold=True)])


def plain(report: Report) -> str:
    """One line a finding: severity, id, group, what, evidence, remedy, between tabs."""
    lines = [
        "\t".join(
            map(
                clean,
                (
                    finding.severity.value,
                    finding.id,
                    finding.group,
                    finding.what,
                    "; ".join(finding.evidence),
                    finding.remedy,
                ),
            )
        )
        for finding in report.findings
    ]
    return "\n".join([*lines, *(f"skipped\t{s.group}\t{clean(s.reason)}" for s in report.skipped)])


def as_json(report: Report) -> str:
    """Everything."""
    document = {
        "findings": [asdict(finding) for finding in report.findings],
        "skipped": [asdict(skipped) for skipped in report.skipped],
        "lookedFor": report.topics,
        "counts": {severity.value: report.count(severity) for severity in Severity},
    }
    return json.dumps(document, indent=2)


RENDERERS: Mapping[str, Callable[[Report], str]] = {
    "table": table,
    "plain": plain,
    "json": as_json,
}


def explained(topic: Topic) -> str:
    """What one sort of finding means."""
    width = min(get_terminal_size().columns, WIDEST)
    return "\n".join(
        [
            f"{topic.id} ({topic.severity}, group {topic.group})",
            "",
            *wrapped(topic.title, width, "", ""),
            "",
            *wrapped(topic.meaning, width, "", ""),
            "",
            *wrapped(topic.remedy, width, "→ ", "  "),
        ]
    )


def _worst_first(findings: Sequence[Finding]) -> list[str]:
    """The groups, by their worst finding, then by how many there are, then in their own order."""
    order = {group.name: position for position, group in enumerate((*GROUPS, *fleet.GROUPS))}
    worst = {f.group: f.severity.rank for f in reversed(findings)}
    count = Counter((finding.group, finding.severity.rank) for finding in findings)
    return sorted(
        worst, key=lambda name: (worst[name], -count[name, worst[name]], order.get(name, 99))
    )


def _alike(findings: Sequence[Finding], width: int) -> Iterator[str]:
    """One remedy for all, unless they differ."""
    shown = findings if len(findings) <= ALIKE + 1 else findings[:ALIKE]
    one_remedy = len({finding.remedy for finding in shown}) == 1
    for position, finding in enumerate(shown):
        sign = click.style(_SIGNS[finding.severity], fg=_COLOURS[finding.severity])
        text = f"{clean(finding.what)}  [{finding.id}]"
        first, *rest = wrapped(text, width - 4, "", "")
        yield f"  {sign} {first}"
        yield from (f"    {line}" for line in rest)
        for evidence in finding.evidence:
            yield from dim(wrapped(clean(evidence), width, "      ", "      "))
        if not one_remedy or position == len(shown) - 1:
            yield from wrapped(clean(finding.remedy), width, "    → ", "      ")
    if len(shown) < len(findings):
        yield f"    ... and {len(findings) - len(shown)} more of these; -o plain lists them all"
