"""Keeps the node's annotations what they should be: written when something changed, looked after at
an interval, and written again when somebody else removed them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.node import ALLOCATION, ANNOUNCES
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.readiness import Readiness
from deviceplugin.scheduled.node import ScheduledNode
from deviceplugin.scheduled.registration import (
    Offer,
    handshakes,
    keys_of,
    node_annotations,
    owned,
)

INTERVAL_SECONDS = 30.0
RETRY_SECONDS = 5.0
"""Source of both: hami-nvidia-node.md 2.2."""

SETTLE_SECONDS = 180.0
"""After which what nobody offers is what nobody serves; longer than any vendor's first probe."""

READINESS = "node registration"


class Announcer:
    """Announces the offers of every vendor of this agent in one patch."""

    def __init__(
        self,
        node: ScheduledNode,
        readiness: Readiness,
        others: Callable[[], Collection[str]] = frozenset,
        leaving: Callable[[], bool] = lambda: False,
        interval: float = INTERVAL_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        """`others` are the vendors that other agents serve on this node; blocking, may raise
        `OSError`. `leaving` says that this agent goes for good, and is told of no more; blocking.
        """
        self._node, self._readiness = node, readiness
        self._others, self._leaving = others, leaving
        self._interval, self._retry = interval, retry
        self._offers: dict[str, Offer] = {}
        self._told: Mapping[str, str] = {}
        self._withdrawn: set[str] = set()
        self._started = asyncio.get_running_loop().time()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger().bind(node=node.name)

    def offer(self, resource: str, what: Offer | None) -> None:
        """From now on this is what the resource has to offer; None: nothing any more."""
        before = self._offers.get(resource)
        if what == before:
            return
        if before is not None:
            self._withdrawn.update(key for key in keys_of(before.keys))
        if what is None:
            del self._offers[resource]
        else:
            self._offers[resource] = what
        self._wake.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.announce()
                self._readiness.clear(READINESS)
                wait = self._interval
            except ApiError as error:
                self._readiness.block(READINESS, str(error))
                self._log.warning("not announced, the next try follows", reason=str(error))
                wait = self._retry
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def announce(self) -> bool:
        """Bring the node in line; whether anything had to be written. Raises `ApiError`."""
        if await asyncio.to_thread(self._leaving):
            return False
        current = (self._node.node or await self._node.fresh_node()).annotations
        stale = await self._stale(current)
        offers, withdrawn = self._writable(), frozenset(self._withdrawn)
        wanted = node_annotations(offers, deferred=self._node.deferred)
        shaken = {item.keys.handshake for item in offers}
        # What we wrote a moment ago may not be seen yet.
        there = current.keys() | self._told.keys()
        gone = {*stale, *withdrawn} & there - wanted.keys() - shaken
        ours = {*wanted, *owned(current), *(item.keys.handshake for item in offers)} - gone
        if named := sorted(key for key in ours if key and key != ANNOUNCES):
            wanted[ANNOUNCES] = ",".join(named)
        else:
            gone |= {ANNOUNCES} & current.keys()
        patch: dict[str, Any] = {k: v for k, v in wanted.items() if current.get(k) != v}
        changed = bool(patch) and bool(self._told)
        patch |= handshakes(offers, current, datetime.now(UTC), changed)
        patch |= dict.fromkeys(gone)
        if patch:
            await self._node.api.patch(
                Path.node(self._node.name), {"metadata": {"annotations": patch}}, MERGE_PATCH
            )
            self._log.info("announced", annotations=sorted(patch))
        self._told = wanted
        self._withdrawn -= withdrawn
        return bool(patch)

    def _writable(self) -> tuple[Offer, ...]:
        """The offers that can be written: a driver's absurd answer stays its vendor's trouble."""
        found = []
        for resource, item in self._offers.items():
            name = f"{READINESS} of {resource}"
            try:
                node_annotations([item], deferred=False)
            except AnnotationError as error:
                self._readiness.block(name, str(error))
                self._log.warning("not announced", resource=resource, reason=str(error))
            else:
                self._readiness.clear(name)
                found.append(item)
        return tuple(found)

    async def _stale(self, current: Mapping[str, str]) -> frozenset[str]:
        """What an agent before us may have left, once every vendor has had time to speak up. That
        it needed no lock at once: what a scheduler binds without one, we would have to refuse.
        Nothing while another agent serves vendors here, whose annotations are ours, too.
        """
        found = owned(current) - {ANNOUNCES}
        if asyncio.get_running_loop().time() - self._started <= SETTLE_SECONDS:
            found &= frozenset() if self._node.deferred else {ALLOCATION}
        if not found:
            return frozenset()
        try:
            alone = not await asyncio.to_thread(self._others)
        except OSError as error:
            self._log.warning("other agents of this node are unknown", reason=str(error))
            alone = False
        return found if alone else frozenset()
