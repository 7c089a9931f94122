"""How it is decided what a container gets: the part in which allocation modes differ.

The allocator checks ids, asks the vendor, renders and prepares the node in every mode alike. A
mode says what ids stand for: at Allocate, where the answer itself carries the devices, or at
PreStartContainer, where Allocate only named a CDI device that is written then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from deviceplugin.kubelet.podresources import Holding
from deviceplugin.splitting import Table
from deviceplugin.vendor import AnswerReader, Grant, Owner, ResourcePlan

__all__ = ["Ask", "Granted", "Mode"]


@dataclass(frozen=True, slots=True)
class Ask:
    """Kubelet's question: these ids, each once and in the table's order. `allocation_id` is the
    name of what they become; `reader` is the vendor's way to read an answer back, where it has one.
    """

    vendor: str
    plan: ResourcePlan
    table: Table
    ids: tuple[str, ...]
    allocation_id: str
    reader: AnswerReader | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer: who asks, as far as that is known, and what he gets, one grant a device.

    `annotations` go into the answer to Allocate, which kubelet keeps. `in_use` are the hard
    partitions that others hold: ``card`` (its uuid), ``slot`` and ``owner``.
    """

    owner: Owner
    grants: Sequence[Grant]
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    in_use: Sequence[Mapping[str, str]] = ()


class Mode(Protocol):
    """Decides for one resource. Every method may raise `RefusalError`."""

    @property
    def deferred(self) -> bool:
        """Whether the grant is known only when the container starts; `decide` is never called
        then.
        """

    @property
    def verifies(self) -> bool:
        """Whether `start` must be called before every start, as PreStartContainer."""

    def foreseen(self, ask: Ask) -> Granted | None:
        """Where the start decides, what is known of it at Allocate: enough to say which directories
        the container will have; None where nothing is.
        """

    async def decide(self, ask: Ask) -> Granted:
        """What the container gets, at Allocate. `commit` or `abandon` follows."""

    async def commit(self, ask: Ask, granted: Granted) -> None:
        """The node is ready for it: make it lasting, right before the answer goes out."""

    async def abandon(self, ask: Ask, granted: Granted, reason: str) -> None:
        """It comes to nothing; never raises."""

    async def start(self, ask: Ask) -> Granted:
        """What the container that starts now gets, by evidence."""

    async def started(self, ask: Ask, granted: Granted) -> None:
        """The node is ready for the start."""

    def refused(self, granted: Granted, reason: str) -> None:
        """The start that was decided on comes to nothing this time; never raises."""

    async def is_new(self, ask: Ask) -> bool:
        """Whether nobody holds these ids yet, as far as can be told, so that what an earlier holder
        left behind is nobody's.
        """

    async def adopt(self, ask: Ask, holdings: Sequence[Holding]) -> bool:
        """Take over what kubelet says in `holdings` was handed out before us; whether something
        was learned.
        """

    def known(self, ask: Ask) -> Granted | None:
        """What these ids were given before, to write it again after the CDI directory was wiped;
        None when that is not known or not needed.
        """
