"""What the node half says of devices: on a node without any, and of its profile's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deviceplugin import registry
from deviceplugin.probe.supervisor import DriverAbsent, Probe, ProbeEvent, ProbeFailed, SnapshotSeen
from deviceplugin.probe.supervisor import Timing as ProbeTiming
from deviceplugin.testing.conformance.model import Check, NotApplicableError, Wrong
from deviceplugin.testing.conformance.subject import Subject
from deviceplugin.vendor import PhysicalDevice

__all__ = ["CHECKS"]

HARDWARE = ("/dev/", "/sys/", "/proc/driver/")
SYSTEMS_OWN = frozenset({"/dev/null", "/dev/urandom", "/dev/random", "/dev/tty"})

RESERVED = ":,;["
"""Separators of the annotations (metax-iluvatar-kunlunxin-hygon.md 0.1)."""


async def _first_answer(subject: Subject, root: str) -> ProbeEvent:
    answer: asyncio.Future[ProbeEvent] = asyncio.get_running_loop().create_future()

    async def handle(event: ProbeEvent) -> None:
        if not answer.done():
            answer.set_result(event)

    seconds = subject.deadline_seconds
    timing = ProbeTiming(interval=seconds, deadline=seconds)
    settings = replace(subject.settings, host_root=root)
    probe = asyncio.create_task(Probe(subject.vendor, settings, timing, handle).run())
    try:
        return await answer
    finally:
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)


def _without_driver(subject: Subject) -> Wrong:
    """In the very process in which discovery runs on a node."""
    if not subject.vendor.presence:
        raise NotApplicableError("it serves only where it is named, whatever there is")
    _ = subject.node  # one that cannot even be made is told elsewhere
    with tempfile.TemporaryDirectory() as root:
        event = asyncio.run(_first_answer(subject, root))
    match event:
        case DriverAbsent():
            return
        case SnapshotSeen(snapshot) if snapshot.devices:
            yield f"on a node without hardware it finds {len(snapshot.devices)} devices"
        case ProbeFailed(cause, reason):
            yield f"discovery on a node without a driver fails ({cause}): {reason}"


def outside(subject: Subject, root: str) -> str:
    """What a discovery looks at on this machine instead of below `root`, a line each."""
    seen: dict[str, None] = {}

    def note(path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            text = os.path.normpath(os.fsdecode(path))
            if f"{text}/".startswith(f"{root}/"):  # which may be on /dev/shm
                return
            if f"{text}/".startswith(HARDWARE) and text not in SYSTEMS_OWN:
                seen[text] = None

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir", "ctypes.dlopen") and arguments:
            note(arguments[0])

    def heard(look: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(path: Any, *arguments: Any, **more: Any) -> Any:
            note(path)
            return look(path, *arguments, **more)

        return wrapper

    backend = registry.load_backend(subject.vendor, replace(subject.settings, host_root=root))
    sys.addaudithook(hear)  # which hears nothing of these three
    os.stat, os.lstat, os.access = heard(os.stat), heard(os.lstat), heard(os.access)
    # What it finds or raises on a node without hardware is told by the check `no-driver`.
    with contextlib.suppress(Exception):
        backend.discover()
    return "\n".join(seen)


def _below_root(subject: Subject) -> Wrong:
    _ = subject.node
    with tempfile.TemporaryDirectory() as root:
        ask, seconds = f"{__name__}:{outside.__name__}", subject.deadline_seconds
        found = subject.in_process(ask, root, seconds=seconds).splitlines()
    if found:
        yield (
            f"discovery looks at {', '.join(found[:3])} of its own machine: look it up below "
            "settings.host_root"
        )


def _identities(subject: Subject) -> Wrong:
    devices = subject.snapshot.devices
    if not devices:
        raise NotApplicableError("the profile has no devices")
    seen: set[str] = set()
    for device in devices:
        if not device.uuid:
            yield f"device {device.index} has no uuid"
        elif device.uuid in seen:
            yield f"two devices have the uuid {device.uuid}"
        seen.add(device.uuid)
        yield from _figures(device)
    for item in subject.offered:
        if item.plan.keys is None:
            continue
        for uuid in item.plan.devices:
            if strange := [c for c in RESERVED if c in uuid]:
                yield f"the uuid {uuid!r} has a {strange[0]!r}, which separates annotations"


def _figures(device: PhysicalDevice) -> Wrong:
    if device.memory_mib is not None and device.memory_mib <= 0:
        yield f"device {device.uuid} has {device.memory_mib} MiB; None is for unknown"
    if device.numa_node is not None and device.numa_node < 0:
        yield f"device {device.uuid}: NUMA node {device.numa_node}; None is for unknown"


CHECKS = (
    Check(
        "no-driver",
        "on a node without the driver, discovery says so, in time",
        "the agent runs on every node; a hang or crash there is a probe restarted for ever",
        _without_driver,
    ),
    Check(
        "host-root",
        "discovery looks for hardware below the host's root",
        "in its container the agent finds no device, whatever the node has",
        _below_root,
    ),
    Check(
        "identities",
        "devices have unique uuids that annotations can carry, and honest figures",
        "schedulers count the use of two cards on one, or lose a card's use altogether",
        _identities,
    ),
)
