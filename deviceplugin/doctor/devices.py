"""What the vendors' drivers answered when they were asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Answer, Scene

__all__ = ["GROUP", "DevicesFacts"]

NAME = "devices"

NO_VENDOR = Topic(
    "vendor-absent",
    NAME,
    Severity.NOTE,
    "No vendor's driver is on this node.",
    "None of the installed vendors found a trace of its driver, so the agent serves nothing here.",
    "On a node with cards see the findings on the driver; name a vendor with --vendors to serve it "
    "in any case.",
)
PROBE_FAILED = Topic(
    "probe-failed",
    NAME,
    Severity.ERROR,
    "A vendor's driver gave no usable answer.",
    "The agent asks drivers in a process of its own; this one failed, crashed or did not answer in "
    "time. Its devices are not offered, or become unhealthy.",
    "The evidence says what the driver said.",
)
VENDOR_UNKNOWN = Topic(
    "vendor-unknown",
    NAME,
    Severity.ERROR,
    "A vendor is to be served that is not installed, or cannot be loaded.",
    "The agent leaves it out and serves the others.",
    "Correct --vendors, or install the package with that vendor.",
)
UNHEALTHY = Topic(
    "device-unhealthy",
    NAME,
    Severity.ERROR,
    "A device is unhealthy.",
    "None of its shares is handed out until it is well again.",
    "The evidence says what the driver says of it.",
)
LEFT_OUT = Topic(
    "device-left-out",
    NAME,
    Severity.WARNING,
    "A device was left out.",
    "The driver has it, and something about it or the configuration keeps it from being offered.",
    "The evidence says what.",
)
SHARING_DOWN = Topic(
    "sharing-down",
    NAME,
    Severity.ERROR,
    "What devices are shared by is not there.",
    "Containers reach these devices through a daemon. Until it is up none is handed out, and a "
    "container that starts again waits for it.",
    "The evidence says what is missing.",
)
COOPERATIVE = Topic(
    "limits-cooperative",
    NAME,
    Severity.NOTE,
    "Limits of devices are cooperative.",
    "Each process keeps to its container's limits by itself, by MPS. That divides a device among "
    "programs that mean well; it holds no tenant back, and one that fails may take others with it.",
    "Where tenants must be held apart use operating mode hami-core or mig.",
)


@dataclass(frozen=True, slots=True)
class DevicesFacts:
    """What every vendor answered; `cooperative` is the scene's."""

    answers: tuple[Answer, ...]
    cooperative: Mapping[str, str]


def gather(scene: Scene) -> DevicesFacts:
    """What was asked before."""
    if scene.answers is None:
        raise NotCheckedError("the drivers were not asked (--no-probe)")
    return DevicesFacts(scene.answers, scene.cooperative)


def _present(facts: DevicesFacts) -> Iterator[Finding]:
    if not facts.answers:
        yield NO_VENDOR.found("no vendor's driver is on this node")


def _answers(facts: DevicesFacts) -> Iterator[Finding]:
    for answer in facts.answers:
        if answer.state == "failed":
            yield PROBE_FAILED.found(
                f"the driver of {answer.vendor} cannot be asked", answer.reason
            )
        elif answer.state == "absent":
            yield NO_VENDOR.found(f"{answer.vendor} has no driver here", answer.reason)
        elif answer.state != "ok":
            yield VENDOR_UNKNOWN.found(f"{answer.vendor} cannot be served", answer.reason)


def _health(facts: DevicesFacts) -> Iterator[Finding]:
    for answer in facts.answers:
        for device, reason in answer.unhealthy:
            yield UNHEALTHY.found(f"device {device} of {answer.vendor} is unhealthy", reason)
        for problem in answer.problems:
            yield LEFT_OUT.found(f"{answer.vendor} left something out", problem)


def _sharing(facts: DevicesFacts) -> Iterator[Finding]:
    for resource, reason in facts.cooperative.items():
        if reason:
            yield SHARING_DOWN.found(f"{resource} is not handed out", reason)
        yield COOPERATIVE.found(f"limits of {resource} are cooperative")


GROUP = Group(
    NAME,
    (PROBE_FAILED, VENDOR_UNKNOWN, UNHEALTHY, SHARING_DOWN, LEFT_OUT, NO_VENDOR, COOPERATIVE),
    gather,
    (_present, _answers, _health, _sharing),
)
