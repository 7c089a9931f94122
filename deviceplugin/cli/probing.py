"""One question to each vendor's probe, for the commands that show or save the answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from deviceplugin import registry
from deviceplugin.config import Config, ConfigError, Loaded, load, settings_of
from deviceplugin.health import admit
from deviceplugin.probe.supervisor import (
    DriverAbsent,
    Probe,
    ProbeEvent,
    ProbeFailed,
    SnapshotSeen,
    Timing,
    UsageSeen,
    UsageUnknown,
)
from deviceplugin.vendor import (
    NodeBackend,
    Planner,
    ResourcePlan,
    Safeguarded,
    Snapshot,
    Usage,
    Vendor,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one vendor said: a snapshot, or why there is none. `state` is one word; `usages` are
    how busy devices are, where that was asked for and could be told.
    """

    vendor: str
    state: str
    snapshot: Snapshot = field(default_factory=Snapshot)
    reason: str = ""
    usages: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True)
class Offered:
    """One resource of a vendor that answered, and what keeps it from being handed out, if any."""

    vendor: str
    plan: ResourcePlan
    snapshot: Snapshot
    impediment: str = ""


def load_or_exit(values: Mapping[str, object]) -> Loaded:
    """The configuration; problems go to stderr and end the process with 1."""
    try:
        return load(values, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(1)


def ask(config: Config, *, usage: bool = False) -> list[Answer]:
    """Ask every vendor to be served at the same time; with `usage` also how busy devices are."""
    found = registry.load()
    answers = [
        Answer(broken.name, "broken", reason=broken.reason)
        for broken in found.broken
        if not config.vendors or broken.name in config.vendors
    ]
    for name in config.vendors:
        if name not in found.vendors:
            known = ", ".join(found.vendors)
            answers.append(Answer(name, "unknown", reason=f"no such vendor; there are {known}"))
    root = Path(config.paths.host_root)
    chosen = [
        vendor
        for name, vendor in found.vendors.items()
        if (name in config.vendors if config.vendors else registry.is_present(vendor, root))
    ]

    async def everybody() -> list[Answer]:
        return await asyncio.gather(*(_ask(vendor, config, usage) for vendor in chosen))

    return answers + asyncio.run(everybody())


def offered(config: Config, answers: Iterable[Answer]) -> Iterator[Offered]:
    """What is offered here, by the plans of the vendors that answered."""
    vendors = registry.load().vendors
    for answer in answers:
        if answer.state != "ok" or not answer.snapshot.devices:
            continue
        vendor = vendors[answer.vendor]
        try:
            backend = registry.load_backend(vendor, settings_of(config, vendor))
            plans = backend.plan(answer.snapshot) if isinstance(backend, Planner) else ()
        except Exception:  # noqa: S112 - a vendor's trouble with its configuration is its probe's
            continue
        for plan in plans:
            yield Offered(answer.vendor, plan, answer.snapshot, _impediment(backend, plan))


def _impediment(backend: NodeBackend, plan: ResourcePlan) -> str:
    try:
        return backend.impediment(plan) if isinstance(backend, Safeguarded) else ""
    except Exception as error:
        return f"what it depends on cannot be checked: {type(error).__name__}: {error}"


async def _ask(vendor: Vendor, config: Config, usage: bool) -> Answer:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    busy: asyncio.Future[tuple[Usage, ...]] = asyncio.get_running_loop().create_future()

    async def handle(event: ProbeEvent) -> None:
        if isinstance(event, UsageSeen | UsageUnknown):
            if not busy.done():
                busy.set_result(event.usages if isinstance(event, UsageSeen) else ())
            return
        if answered.done():
            return
        match event:
            case SnapshotSeen(snapshot):
                answered.set_result(Answer(vendor.name, "ok", admit(snapshot)))
            case DriverAbsent(reason):
                answered.set_result(Answer(vendor.name, "absent", reason=reason))
            case ProbeFailed(_, reason):
                answered.set_result(Answer(vendor.name, "failed", reason=reason))

    deadline = config.probe.deadline_seconds
    timing = Timing(deadline=deadline, usage=deadline if usage else 0.0)
    probe = asyncio.create_task(Probe(vendor, settings_of(config, vendor), timing, handle).run())
    try:
        answer = await answered
        if usage and answer.state == "ok":
            with contextlib.suppress(TimeoutError):
                return replace(answer, usages=await asyncio.wait_for(busy, deadline))
        return answer
    finally:
        probe.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probe
