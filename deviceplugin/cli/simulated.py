"""What a simulation found, on a terminal and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from shutil import get_terminal_size

import click

from deviceplugin.cli.text import WIDEST, clean, several, wrapped
from deviceplugin.explain.simulate import Left, Outcome, Result, grouped

__all__ = ["as_json", "as_text"]

NAMED = 5
"""Nodes that are named of each kind of pod."""


def as_text(result: Result, *, listing: bool) -> str:
    """For people: the answer, who waits and why, what is left."""
    width = min(get_terminal_size().columns, WIDEST)
    placed = sum(bool(outcome.node) for outcome in result.outcomes)
    total = len(result.outcomes)
    nodes = {outcome.node for outcome in result.outcomes if outcome.node}
    answer = f"{placed:,} of {several(total, 'pod')} find a place, on {several(len(nodes), 'node')}"
    if total and not placed:
        answer = "The pod finds no place" if total == 1 else f"None of {total:,} pods finds a place"
    elif total > placed:
        answer += f"; {total - placed:,} {'waits' if total - placed == 1 else 'wait'}"
    lines = [click.style(f"{answer}.", bold=True)]
    if listing:
        lines += ["", "Where they go"]
        for outcome in result.outcomes:
            lines += wrapped(clean(_where(outcome)), width, "  ", "    ")
    elif placed:
        lines += ["", "Where they go"]
        for kind, those in grouped(result.outcomes).items():
            lines += _places(kind, those, width)
    lines += _waiting(result, width)
    lines += ["", "What is left", *_left(result)]
    return "\n".join(lines)


def as_json(result: Result) -> str:
    """Everything."""
    document = {
        "placed": sum(bool(outcome.node) for outcome in result.outcomes),
        "waiting": sum(not outcome.node for outcome in result.outcomes),
        "pods": [
            {
                "pod": outcome.pod,
                "kind": outcome.kind,
                "node": outcome.node,
                "got": [asdict(got) for got in outcome.got],
                "reason": outcome.reason,
                "remedies": [
                    {"do": str(remedy), "nodes": list(remedy.nodes)}
                    for remedy in (outcome.account.remedies if outcome.account else ())
                ],
            }
            for outcome in result.outcomes
        ],
        "before": [asdict(left) for left in result.before],
        "after": [asdict(left) for left in result.after],
    }
    return json.dumps(document, indent=2)


def _where(outcome: Outcome) -> str:
    if not outcome.node:
        return f"{outcome.pod}: waits"
    got = "; ".join(f"{g.container} {g.uuid} {g.memory_mib:,} MiB {g.cores}%" for g in outcome.got)
    return f"{outcome.pod}: {outcome.node}, {got}"


def _places(kind: str, those: Sequence[Outcome], width: int) -> Iterator[str]:
    nodes = Counter(outcome.node for outcome in those if outcome.node)
    if not nodes:
        return
    names = ", ".join(f"{name} ({count})" for name, count in nodes.most_common(NAMED))
    more = f", {len(nodes) - NAMED:,} more" if len(nodes) > NAMED else ""
    text = f"{sum(nodes.values()):>5,}  {kind}: {names}{more}"
    yield from wrapped(clean(text), width, "  ", " " * 9)


def _waiting(result: Result, width: int) -> Iterator[str]:
    kinds = {
        kind: waits
        for kind, those in grouped(result.outcomes).items()
        if (waits := [outcome for outcome in those if not outcome.node])
    }
    if not kinds:
        return
    yield from ("", "Who waits, and why")
    for kind, waits in kinds.items():
        first = waits[0]
        yield from wrapped(clean(f"{len(waits):>5,}  {kind}: {first.reason}"), width, "  ", " " * 9)
        for remedy in first.account.remedies if first.account else ():
            yield from wrapped(clean(str(remedy)), width, " " * 9 + "→ ", " " * 11)


def _left(result: Result) -> Iterator[str]:
    head: tuple[str, ...] = (
        "DEVICES",
        "CARDS",
        "IDLE",
        "FREE SHARES",
        "FREE MiB",
        "ON IDLE CARDS",
        "MOST ON A CARD",
    )
    rows = [head]
    before = {left.word: left for left in result.before}
    for left in result.after:
        rows.append(_row(left.word, left))
        if (was := before.get(left.word)) is not None and was != left:
            rows.append(_row("  before", was))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = (cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _row(name: str, left: Left) -> tuple[str, ...]:
    return (
        clean(name),
        f"{left.cards:,}",
        f"{left.idle:,}",
        f"{left.shares:,} of {left.of_shares:,}",
        f"{left.mib:,} of {left.of_mib:,}",
        f"{left.idle_mib:,}",
        f"{left.largest_mib:,}",
    )
