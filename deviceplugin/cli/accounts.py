"""What is told of a pod, on a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from shutil import get_terminal_size
from typing import Any

import click

from deviceplugin.cli.text import WIDEST, clean, several, wrapped
from deviceplugin.explain.account import Account, Got, Wants
from deviceplugin.explain.changes import Change
from deviceplugin.explain.groups import Group
from deviceplugin.explain.judge import CardVerdict, NodeVerdict, cards
from deviceplugin.explain.world import World
from deviceplugin.placement.fit import Placement

__all__ = ["as_json", "as_text"]

NAMED = 3
"""Nodes that are named of each group."""
COLUMNS = ("INDEX", "CARD", "TYPE", "FREE MiB", "OF", "FREE CORES", "SHARES", "VERDICT")


def as_text(account: Account, world: World, shown: Sequence[str]) -> str:
    """For people: the answer first. `shown` are nodes whose cards are listed."""
    width = min(get_terminal_size().columns, WIDEST)
    lines = [click.style(line, bold=True) for line in wrapped(clean(account.answer), width, "", "")]
    lines += _section("It asks for", (_wants(each) for each in account.wants), width, "")
    lines += _section("It got", (_got(each) for each in account.got), width, "")
    remedies = (f"{remedy}: fits on {_some(remedy.nodes)}" for remedy in account.remedies)
    lines += _section("What would make it fit", remedies, width, "→ ")
    lines += _section("What to do", account.advice, width, "→ ")
    lines += _section("Beside that", account.notes, width, "· ")
    if account.groups:
        lines += ["", f"Why not on {_of(account)}"]
        for group in account.groups:
            lines += _group(group, width, said=len(account.groups) == 1)
    for name in shown:
        verdict = account.verdicts.get(name)
        if verdict is not None:
            lines += ["", *_node(account, world, verdict, width)]
    if account.verdicts and not shown:
        first = account.node or next(
            (group.nodes[0] for group in account.groups), next(iter(account.verdicts))
        )
        hint = f"`--node {clean(first)}` lists a node's cards, `--all-nodes` those of all."
        lines += ["", hint]
    return "\n".join(lines)


def as_json(account: Account, world: World, shown: Sequence[str]) -> str:
    """Everything; of nodes those that are `shown`, each with its cards."""
    document = {
        "pod": account.pod,
        "standing": account.standing.value,
        "answer": account.answer,
        "asks": [asdict(each) for each in account.wants],
        "got": [asdict(each) for each in account.got],
        "node": account.node,
        "remedies": [
            {
                "do": str(remedy),
                "changes": [_change(change) for change in remedy.changes],
                "nodes": list(remedy.nodes),
            }
            for remedy in account.remedies
        ],
        "advice": list(account.advice),
        "notes": list(account.notes),
        "groups": [asdict(group) for group in account.groups],
        "fitsOn": [name for name, verdict in account.verdicts.items() if verdict.fits],
        "nodes": [
            _node_document(account, world, account.verdicts[name])
            for name in shown
            if name in account.verdicts
        ],
    }
    return json.dumps(document, indent=2)


def _section(
    title: str, entries: Iterator[str] | Sequence[str], width: int, sign: str
) -> list[str]:
    lines = [
        line
        for entry in entries
        for line in wrapped(clean(entry), width, f"  {sign}", "  " + " " * len(sign))
    ]
    return ["", title, *lines] if lines else []


def _wants(wants: Wants) -> str:
    of_each = [f"{wants.memory} of its memory" if wants.memory.endswith("%") else wants.memory]
    of_each.append(f"{wants.cores} of its cores" if wants.cores else "")
    parts = " and ".join(filter(None, of_each))
    each = "of each " if wants.count > 1 and parts else ""
    kind = "init container " if wants.first else ""
    text = f"{kind}{wants.container}: {wants.count} × {wants.resource}"
    return f"{text}, {each}{parts}" if parts else text


def _got(got: Got) -> str:
    slot = f", partition {got.slot}" if got.slot else ""
    model = f" ({got.model})" if got.model else ""
    return f"{got.container}: {got.uuid}{model}, {got.memory_mib:,} MiB and {got.cores}%{slot}"


def _of(account: Account) -> str:
    refused = sum(not verdict.fits for verdict in account.verdicts.values())
    total = several(len(account.verdicts), "node")
    return total if refused == len(account.verdicts) else f"{refused:,} of {total}"


def _some(names: Sequence[str]) -> str:
    """``12 nodes, gpu-7 for one``."""
    return names[0] if len(names) == 1 else f"{several(len(names), 'node')}, {names[0]} for one"


def _group(group: Group, width: int, *, said: bool) -> Iterator[str]:
    """`said` is what the answer has said already."""
    yield f"  {len(group.nodes):>5,}  {click.style(group.word, bold=True)}"
    if not said:
        yield from wrapped(clean(group.summary), width, " " * 9, " " * 9)
    more = len(group.nodes) - NAMED
    names = ", ".join(group.nodes[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
    for line in wrapped(clean(names), width, " " * 9, " " * 9):
        yield click.style(line, dim=True)


def _node(account: Account, world: World, verdict: NodeVerdict, width: int) -> Iterator[str]:
    yield from wrapped(f"{clean(verdict.name)}: {clean(_said(verdict))}", width, "", "  ")
    rows = [_row(each) for each in _cards(account, world, verdict)]
    if not rows:
        return
    widths = [max(len(row[i]) for row in (COLUMNS, *rows)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        cells = (cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _said(verdict: NodeVerdict) -> str:
    outside = "; ".join(f"{one.by}: {one.detail}" for one in verdict.outside)
    if isinstance(verdict.found, Placement):
        return outside or f"serves it (score {verdict.found.score:.2f})"
    reason = verdict.reason
    inside = f"{reason.obstacle}: {reason.detail}" if reason else ""
    return "; ".join(filter(None, (inside.removesuffix(": "), outside)))


def _cards(account: Account, world: World, verdict: NodeVerdict) -> Sequence[CardVerdict]:
    return cards(world, account.wanted, verdict) if account.wanted is not None else ()


def _row(found: CardVerdict) -> tuple[str, ...]:
    card, device = found.card, found.card.device
    if found.reason is not None:
        text = f"{found.reason.obstacle}: {found.reason.detail}".removesuffix(": ")
    else:
        text = "would be taken" if found.chosen else "serves"
    return tuple(
        map(
            clean,
            (
                str(device.index),
                card.uuid,
                device.type,
                f"{card.free_memory_mib:,}",
                f"{device.memory:,}",
                f"{card.free_cores}%",
                f"{card.used} of {device.count}",
                text,
            ),
        )
    )


def _node_document(account: Account, world: World, verdict: NodeVerdict) -> dict[str, Any]:
    reason, found = verdict.reason, verdict.found
    return {
        "name": verdict.name,
        "fits": verdict.fits,
        "score": found.score if isinstance(found, Placement) else None,
        "obstacle": str(reason.obstacle) if reason else "",
        "detail": reason.detail if reason else "",
        "outside": [{"by": str(one.by), "detail": one.detail} for one in verdict.outside],
        "cards": [
            {
                "uuid": each.card.uuid,
                "index": each.card.device.index,
                "word": each.word,
                "type": each.card.device.type,
                "healthy": each.card.device.healthy,
                "memoryMiB": each.card.device.memory,
                "freeMemoryMiB": each.card.free_memory_mib,
                "cores": each.card.device.cores,
                "freeCores": each.card.free_cores,
                "shares": each.card.device.count,
                "used": each.card.used,
                "pods": sorted({tenant.pod for tenant in each.card.tenants}),
                "obstacle": str(each.reason.obstacle) if each.reason else "",
                "detail": each.reason.detail if each.reason else "",
                "chosen": each.chosen,
            }
            for each in _cards(account, world, verdict)
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    return {"kind": type(change).__name__, **asdict(change)}  # type: ignore[call-overload]
