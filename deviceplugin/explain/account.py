"""What is told about one pod, as data: the answer in a sentence, and what it rests on."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from deviceplugin.explain.groups import Group
from deviceplugin.explain.judge import NodeVerdict
from deviceplugin.explain.remedies import Remedy
from deviceplugin.scheduler.filtering import Request

__all__ = ["Account", "Got", "Standing", "Wants"]


class Standing(enum.StrEnum):
    """Where a pod is on its way to its devices."""

    NOTHING_ASKED = "asks-for-nothing"
    """It asks for no device: kube-scheduler alone decides."""
    ENDED = "ended"
    """It has run to its end, or kubelet refused it."""
    REFUSED = "refused"
    """It asks for what can never be served."""
    GATED = "gated"
    """It has scheduling gates."""
    PAST_WEBHOOK = "past-webhook"
    """It came past the webhook."""
    UNFIT = "unfit"
    """No node serves it."""
    FITS = "fits"
    """A node serves it, and it has not been placed yet."""
    DECIDED = "decided"
    """It was given devices and is not bound yet."""
    ALLOCATING = "allocating"
    """It is bound, and no agent has handed its devices over yet."""
    FAILED = "failed"
    """Its node's agent could not hand its devices over."""
    PLACED = "placed"
    """It has its devices."""
    UNREADABLE = "unreadable"
    """It is bound, and nobody can read what it was given."""
    ELSEWHERE = "elsewhere"
    """It is on a node whose devices others look after."""

    @property
    def well(self) -> bool:
        """Whether nobody has to do anything about it."""
        return self in (
            Standing.NOTHING_ASKED,
            Standing.FITS,
            Standing.DECIDED,
            Standing.PLACED,
            Standing.ELSEWHERE,
        )


@dataclass(frozen=True, slots=True)
class Wants:
    """What one container asks of one resource; `memory` and `cores` are of each card, in words."""

    container: str
    resource: str
    count: int
    memory: str
    cores: str
    first: bool = False
    """An init container that ends before the others start."""


@dataclass(frozen=True, slots=True)
class Got:
    """A device of a container: MiB, percent; `slot` is its partition, empty where it has none."""

    container: str
    uuid: str
    model: str
    memory_mib: int
    cores: int
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """`answer` is one sentence. `remedies` would make the pod fit, `advice` is what to do that
    cannot be tried; `notes` are facts beside. `verdicts` are what all nodes say, and `groups` those
    of them that do not serve; both are empty where nobody was asked. `wanted` is None where nothing
    is asked for that can be understood.
    """

    pod: str
    standing: Standing
    answer: str
    wants: tuple[Wants, ...] = ()
    got: tuple[Got, ...] = ()
    node: str = ""
    remedies: tuple[Remedy, ...] = ()
    advice: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    verdicts: Mapping[str, NodeVerdict] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    wanted: Request | None = None
