"""Keeps the node's annotations what they should be: written when something changed, looked after at
an interval, and written again when somebody else removed them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.apiserver.client import MERGE_PATCH, ApiError, Path
from deviceplugin.readiness import Readiness
from deviceplugin.scheduled.node import ScheduledNode
from deviceplugin.scheduled.registration import (
    MODE_ANNOTATION,
    Offer,
    handshakes,
    node_annotations,
)

INTERVAL_SECONDS = 30.0
RETRY_SECONDS = 5.0
"""Source of both: hami-nvidia-node.md 2.2."""

READINESS = "node registration"


class Announcer:
    """Announces the offers of every vendor of this agent in one patch."""

    def __init__(
        self,
        node: ScheduledNode,
        readiness: Readiness,
        interval: float = INTERVAL_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self._node, self._readiness = node, readiness
        self._interval, self._retry = interval, retry
        self._offers: dict[str, Offer] = {}
        self._told: Mapping[str, str] = {}
        self._withdrawn: set[str] = set()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger().bind(node=node.name)

    def offer(self, resource: str, what: Offer | None) -> None:
        """From now on this is what the resource has to offer; None: nothing any more."""
        before = self._offers.get(resource)
        if what == before:
            return
        if what is None:
            del self._offers[resource]
        else:
            self._offers[resource] = what
        if before is not None and (what is None or what.keys != before.keys):
            self._withdrawn |= {k for k in (before.keys.register, before.keys.score) if k}
        self._wake.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.announce()
                self._readiness.clear(READINESS)
                wait = self._interval
            except (ApiError, AnnotationError) as error:
                self._readiness.block(READINESS, str(error))
                self._log.warning("not announced, the next try follows", reason=str(error))
                wait = self._retry
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def announce(self) -> bool:
        """Bring the node in line; whether anything had to be written.

        Raises `ApiError` and `AnnotationError`.
        """
        if not self._offers and not self._withdrawn:
            return False
        offers = tuple(self._offers.values())
        wanted = node_annotations(offers, deferred=self._node.deferred)
        current = (self._node.node or await self._node.fresh_node()).annotations
        patch: dict[str, Any] = {k: v for k, v in wanted.items() if current.get(k) != v}
        changed = bool(patch) and bool(self._told)
        patch |= handshakes(offers, current, datetime.now(UTC), changed)
        gone = {*self._withdrawn, MODE_ANNOTATION} - wanted.keys()
        patch |= {key: None for key in gone if key in current}
        if patch:
            await self._node.api.patch(
                Path.node(self._node.name), {"metadata": {"annotations": patch}}, MERGE_PATCH
            )
            self._log.info("announced", annotations=sorted(patch))
        self._told, self._withdrawn = wanted, set()
        return bool(patch)
