"""The scheduler's figures beside their targets: ``python -m benchmarks.scheduler``.

The scheduler is the real process on loopback HTTPS, the cluster a generated one behind an API
server in a process of its own; `measuring` says how it is asked. With ``--peer`` HAMi's scheduler
stands beside ours: the same cluster, the same requests, the same machine, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks.scheduler.candidates import candidate, served
from benchmarks.scheduler.drift import drift
from benchmarks.scheduler.measuring import Figures, Measuring, of_rounds, quantile
from benchmarks.scheduler.picture import picture
from deviceplugin import registry
from deviceplugin.api.node import ALLOCATION
from deviceplugin.scheduler.certificates.issuing import Lifetimes, new_authority, new_serving
from deviceplugin.testing.clusters import Plan, arrivals, generate
from deviceplugin.vendor.scheduling import SchedulingBackend

T = TypeVar("T")

NVIDIA = {"a100": 0.7, "t4": 0.3}
"""What HAMi is compared on: its other agents answer handshakes, and nobody does here, so that it
takes their nodes out after a minute.
"""
SIZES = ((100, 1_000), (1_000, 10_000), (5_000, 40_000))
LARGE = 1_000
"""Nodes above which fewer filters have to do: HAMi takes a second for each."""
THROUGHPUT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured. `placed` pods go through filter and bind on an empty cluster of
    `placed_on` nodes.
    """

    sizes: tuple[tuple[int, int], ...]
    filters: int = 100
    rounds: int = 5
    binds: int = 60
    webhooks: int = 300
    placed: int = 1_000
    placed_on: int = 100
    events: int = 100_000


QUICK = Amounts(((50, 300),), filters=20, rounds=2, binds=10, webhooks=30, placed=60, events=2_000)
TINY = Amounts(
    ((3, 10),), filters=10, rounds=1, binds=4, webhooks=3, placed=8, placed_on=4, events=100
)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    amounts = TINY if given.tiny else QUICK if given.quick else Amounts(SIZES)
    if given.size:
        sizes = tuple(tuple(map(int, size.split("x"))) for size in given.size)
        amounts = replace(amounts, sizes=sizes)
    plan = Plan(mix=NVIDIA, deferred=0.5) if given.peer else Plan(deferred=0.5)
    began, cards = time.monotonic(), "NVIDIA only" if given.peer else "six sorts of card"
    print(f"clusters of {cards}, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    found: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="dpb-", dir="/tmp") as folder:
        root = Path(folder)
        certify(root)
        for nodes, pods in amounts.sizes:
            beside = measured(root, replace(plan, nodes=nodes, pods=pods), amounts, given.peer)
            tell(beside)
            found += beside
        throughputs(root, plan, amounts, given.peer)
    drifted(replace(plan, nodes=60, pods=400), amounts.events)
    print(f"{time.monotonic() - began:.0f} s, load average {os.getloadavg()[0]:.1f} at the end")
    if given.json:
        given.json.write_text(json.dumps([asdict(figures) for figures in found]))
    if given.picture:
        given.picture.write_text(picture(found))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="benchmarks.scheduler", description=__doc__)
    found.add_argument("--quick", action="store_true", help="under a minute, on a small cluster")
    found.add_argument("--tiny", action="store_true", help="a few of everything, to see it work")
    found.add_argument("--size", action="append", metavar="NODESxPODS", help="repeatable")
    found.add_argument("--peer", default="", metavar="FILE", help="HAMi's scheduler, its binary")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    found.add_argument("--picture", type=Path, metavar="FILE", help="draw them there, as SVG")
    return found


# --- what is measured -------------------------------------------------------------------------


def measured(root: Path, plan: Plan, amounts: Amounts, peer: str) -> list[Figures]:
    """Ours, and the peer's on the same cluster."""
    file, nodes, deferred = made(root, plan)

    def one(measuring: Measuring, ready: float) -> Figures:
        figures = Figures(measuring.candidate.name, plan.nodes, plan.pods, ready)
        figures.memory_first = measuring.memory()
        few = plan.nodes > LARGE
        filters = amounts.filters // 2 if few else amounts.filters
        pods = measuring.filters(figures, filters, 3 if few else amounts.rounds)
        measuring.patches(figures, pods[0], filters)
        measuring.binds(figures, pods[: amounts.binds], deferred)
        measuring.webhooks(figures, amounts.webhooks)
        figures.memory_last = measuring.memory()
        return figures

    return [run(root, file, nodes, plan, binary, one) for binary in ([""] + [peer] * bool(peer))]


def run(
    root: Path,
    file: Path,
    nodes: Sequence[str],
    plan: Plan,
    binary: str,
    measure: Callable[[Measuring, float], T],
) -> T:
    with served(file) as api, candidate(root, api, binary) as one:
        waiting = arrivals(plan, backends())
        return measure(Measuring(one, api, nodes, waiting), one.ready)


def throughputs(root: Path, plan: Plan, amounts: Amounts, peer: str) -> None:
    """Pods a second through filter and bind, on nodes that need a lock and on nodes that do not;
    HAMi locks all.
    """
    print()
    rows = []
    for deferred, what in ((0.0, "with locks"), (1.0, "deferred")):
        empty = replace(plan, nodes=amounts.placed_on, pods=0, deferred=deferred)
        file, nodes, _ = made(root, empty)

        def one(measuring: Measuring, _ready: float) -> str:
            bound, seconds = measuring.throughput(amounts.placed, THROUGHPUT_SECONDS)
            return f"{bound} in {seconds:.1f} s: {bound / seconds:.1f} /s"

        theirs = [run(root, file, nodes, empty, peer, one)] if peer and not deferred else []
        ours = run(root, file, nodes, empty, "", one)
        what = f"{amounts.placed:,} pods, {amounts.placed_on} nodes, {what}"
        rows.append((what, ours, theirs, ">= 45 pods/s"))
    for what, ours, theirs, target in rows:
        row(what, ours, theirs[0] if theirs else "", "", target)


def drifted(plan: Plan, events: int) -> None:
    wrong = drift(plan, backends(), events)
    row(f"drift after {events:,} random events", str(wrong), "", "", "0")


def made(root: Path, plan: Plan) -> tuple[Path, list[str], frozenset[str]]:
    """The cluster's file, its nodes, and those of them that need no lock."""
    cluster = generate(plan, backends())
    file = root / "cluster.json"
    file.write_text(json.dumps({"nodes": cluster.nodes, "pods": cluster.pods}))
    metadata = [item["metadata"] for item in cluster.nodes]
    deferred = frozenset(each["name"] for each in metadata if ALLOCATION in each["annotations"])
    return file, [each["name"] for each in metadata], deferred


def backends() -> tuple[SchedulingBackend, ...]:
    """Those of all vendors but the mock, which plays one of the others."""
    vendors = registry.load().vendors
    return tuple(
        backend
        for name, vendor in vendors.items()
        if name != "mock"
        for backend in registry.load_scheduling(vendor, {})
    )


def certify(root: Path) -> None:
    """A certificate for loopback."""
    now, lifetimes = datetime.now(UTC), Lifetimes()
    pair = new_serving(new_authority(now, lifetimes), ["127.0.0.1"], now, lifetimes)
    (root / "tls.crt").write_bytes(pair.chain_pem)
    (root / "tls.key").write_bytes(pair.key)


# --- what is told -----------------------------------------------------------------------------

TARGETS = {
    (1_000, 10_000): {"without": "2 / 8 ms, 5 x HAMi", "memory": "<= 250 MiB"},
    (5_000, 40_000): {"without": "p50 <= 8 ms"},
}


def tell(beside: Sequence[Figures]) -> None:
    first = beside[0]
    targets = TARGETS.get((first.nodes, first.pods), {})
    print(f"\n{first.nodes:,} nodes, {first.pods:,} pods")

    def told(what: str, of: Callable[[Figures], str], ratio: float | None, target: str) -> None:
        peer = of(beside[1]) if len(beside) > 1 else ""
        row(what, of(first), peer, f"{ratio:.1f} x" if ratio and peer else "", target)

    def times(of: Callable[[Figures], float]) -> float | None:
        return of(beside[-1]) / of(first) if of(first) else None

    def rounds(what: str) -> Callable[[Figures], str]:
        return lambda f: both(*(of_rounds(getattr(f, what), share) for share in (0.5, 0.99)))

    def all_of(what: str) -> Callable[[Figures], str]:
        return lambda f: both(*(quantile(getattr(f, what), share) for share in (0.5, 0.99)))

    without = times(lambda f: of_rounds(f.without, 0.5))
    told("filter, p50 / p99", rounds("filters"), times(lambda f: of_rounds(f.filters, 0.5)), "-")
    told("  without the PATCH", rounds("without"), without, targets.get("without", "-"))
    p50, p99 = (quantile(first.patches, share) for share in (0.5, 0.99))
    row("    of that: its sending, by itself", both(p50, p99), "", "", "-")
    told(
        "  of a pod that fits nowhere",
        all_of("nowhere"),
        times(lambda f: quantile(f.nowhere, 0.5)),
        "-",
    )
    told(
        "CPU of the scheduler a filter",
        lambda f: f"{f.cpu_ms:.2f} ms",
        times(lambda f: f.cpu_ms),
        "-",
    )
    told("bind, p50 / p99", all_of("binds"), times(lambda f: quantile(f.binds, 0.5)), "-")
    for sort, most in (("locked", 4), ("deferred", 2)):
        if sort in first.calls:
            told(
                f"API calls a bind, {sort}",
                lambda f, s=sort: f"{f.calls[s]:.1f}",
                None,
                f"<= {most}",
            )
    told("webhook, p50 / p99", all_of("webhooks"), None, "p99 <= 50 ms")
    told("memory, ready", lambda f: f"{f.memory_first:.0f} MiB", None, targets.get("memory", "-"))
    told(
        "memory, in the end", lambda f: f"{f.memory_last:.0f} MiB", None, targets.get("memory", "-")
    )
    told("start -> ready", lambda f: f"{f.ready_s:.1f} s", None, "-")


def both(p50: float, p99: float) -> str:
    return f"{p50:.2f} / {p99:.2f} ms"


def row(what: str, ours: str, peer: str, ratio: str, target: str) -> None:
    print(f"{what:<38} {ours:>22} {peer:>22} {ratio:>8}   target {target}", flush=True)


if __name__ == "__main__":
    main()
