"""Which replica decides (hami-scheduler.md 1.7, 10.5).

Beside kube-scheduler in one pod, the Lease that kube-scheduler holds is followed: who holds it is
asked for filters and binds. Behind a Service, replicas elect one of them on a Lease of their own.
Leadership is never a flag: it is worked out at the instant when somebody asks, by a monotonic
clock, so that it ends in time even where nobody is there to end it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from deviceplugin.apiserver.client import MERGE_PATCH, Api, ApiError, Path

__all__ = ["Alone", "Elected", "Followed", "Leading", "Timing"]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
LEASE = LEASES + "/{name}"

LOOK_SECONDS = 1.0
"""Between two looks at a Lease that is followed."""
ANSWER_SECONDS = 4.0
"""A look that takes longer is given up for the next."""


def since_boot() -> float:
    """Seconds by a clock that nobody sets and that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leading(Protocol):
    """Whether this replica decides."""

    def left(self) -> float:
        """For how many seconds from now it surely does; 0 where it does not."""

    def is_leader(self) -> bool:
        """At this instant."""

    @property
    def holder(self) -> str:
        """Who does, for people."""

    @property
    def term(self) -> Hashable:
        """Another value whenever somebody else may have led in between."""

    async def run(self) -> None:
        """Keep it known until cancelled."""


class Alone:
    """The only replica: no election."""

    holder = "this replica"
    term = 0

    def left(self) -> float:
        """For ever."""
        return math.inf

    def is_leader(self) -> bool:
        """Always."""
        return True

    async def run(self) -> None:
        """There is nothing to keep."""
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease: who holds it, for how many seconds after each renewal, how often it changed hands.
    When its holder says to have got and renewed it are texts to compare and nothing else: clocks
    differ.
    """

    holder: str
    seconds: float
    transitions: int
    acquired: str
    renewed: str
    version: str


def lease_record(item: Mapping[str, Any]) -> LeaseRecord:
    """A Lease from its JSON."""
    spec = item.get("spec") or {}
    return LeaseRecord(
        str(spec.get("holderIdentity") or ""),
        float(spec.get("leaseDurationSeconds") or 0),
        int(spec.get("leaseTransitions") or 0),
        str(spec.get("acquireTime") or ""),
        str(spec.get("renewTime") or ""),
        str((item.get("metadata") or {}).get("resourceVersion") or ""),
    )


class _Lease(ABC):
    """A Lease as it was last read."""

    def __init__(self) -> None:
        self._record: LeaseRecord | None = None

    @abstractmethod
    def left(self) -> float:
        """For how many seconds from now this replica surely leads."""

    def is_leader(self) -> bool:
        """At this instant."""
        return self.left() > 0

    @property
    def holder(self) -> str:
        """Who leads, for people."""
        return self._record.holder if self._record and self._record.holder else "nobody"

    @property
    def term(self) -> Hashable:
        """Who got the Lease, when by his own clock, and after how many others: a Lease that was
        deleted counts them anew.
        """
        seen = self._record
        return (seen.holder, seen.acquired, seen.transitions) if seen else None

    def _hear(self, record: LeaseRecord | None) -> bool:
        """Whether it was renewed since it was read last: it may also change without."""
        before, self._record = self._record, record
        return (
            before is not None
            and record is not None
            and (before.holder, before.renewed) != (record.holder, record.renewed)
        )


class Followed(_Lease):
    """Leads as long as the kube-scheduler on this host name does.

    Others take a Lease over so long after they saw it renewed, which is after it was. So a renewal
    counts here from before it was: from when the read began that did not show it yet. A watch
    could not tell that, because what it tells may be of any age.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        hostname: str,
        monotonic: Callable[[], float] = since_boot,
        look: float = LOOK_SECONDS,
    ) -> None:
        super().__init__()
        self._api, self._hostname = api, hostname
        self._monotonic, self._look = monotonic, look
        self._path = Path(LEASE, {"namespace": namespace, "name": name})
        self._read_at = self._renewed_at = -math.inf
        self._log = structlog.get_logger().bind(lease=f"{namespace}/{name}")

    def left(self) -> float:
        """What is left of the last renewal."""
        record = self._record
        if record is None or not self._is_mine(record.holder):
            return 0.0
        return max(self._renewed_at + record.seconds - self._monotonic(), 0.0)

    async def run(self) -> None:
        """Until cancelled."""
        problem = ""
        while True:
            try:
                await self.look()
                problem = ""
            except ApiError as error:
                if not problem:
                    self._log.warning("the lease is not known", reason=str(error))
                problem = str(error)
            await asyncio.sleep(self._look)

    async def look(self) -> None:
        """Read the Lease. Raises `ApiError`."""
        began = self._monotonic()
        try:
            found = lease_record(await self._api.get(self._path, within=ANSWER_SECONDS))
        except ApiError as error:
            if not error.is_missing:
                raise
            self._record = None
        else:
            if self._hear(found):
                self._renewed_at = self._read_at
        self._read_at = began

    def _is_mine(self, holder: str) -> bool:
        """``<hostname>_<uuid>``: the whole name, not its beginning (hami-scheduler.md 10.5)."""
        return holder.rpartition("_")[0] == self._hostname or holder == self._hostname


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: others wait for `lease` after the last renewal that they saw, the holder gives up
    `renew` after the last that it began, and tries every `retry`. Raises `ValueError`.
    """

    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease > self.renew > self.retry > 0:
            raise ValueError(
                f"lease {self.lease:g} s, renew {self.renew:g} s and retry {self.retry:g} s have "
                "to be each more than the next, and more than nothing"
            )

    @property
    def answer(self) -> float:
        """A request that takes longer is given up, so that one without an answer does not cost the
        whole deadline.
        """
        return (self.renew - self.retry) / 4


class Elected(_Lease):
    """Leads as long as it holds a Lease, which it tries to get as long as it runs."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        monotonic: Callable[[], float] = since_boot,
    ) -> None:
        super().__init__()
        self._api, self._identity, self._monotonic = api, identity, monotonic
        self._timing = timing or Timing()
        self._collection = Path(LEASES, {"namespace": namespace})
        self._path = Path(LEASE, {"namespace": namespace, "name": name})
        self._name = name
        self._seen_at = -math.inf
        """When a renewal was seen last."""
        self._until = -math.inf
        self._log = structlog.get_logger().bind(lease=f"{namespace}/{name}")

    def left(self) -> float:
        """What is left of the last renewal of its own."""
        return max(self._until - self._monotonic(), 0.0)

    async def run(self) -> None:
        """Until cancelled; what is held then is given back."""
        led = False
        try:
            while True:
                try:
                    await self._round()
                except ApiError as error:
                    self._log.warning("the lease was not renewed", reason=str(error))
                if self.is_leader() != led:
                    led = not led
                    self._log.info("leads" if led else "leads no more", holder=self.holder)
                await asyncio.sleep(self._timing.retry * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            await self._give_back()

    async def _round(self) -> None:
        try:
            self._see(lease_record(await self._api.get(self._path, within=self._timing.answer)))
        except ApiError as error:
            if not error.is_missing:
                raise
            if not self._is_mine() and not self._is_free():
                return  # somebody deleted it under its holder, who may not know yet
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": self._spec(0, fresh=True),
            }
            # What counts is when the request was sent: it may be answered much later.
            began = self._monotonic()
            made = await self._api.create(self._collection, body, self._timing.answer)
            self._take(made, began)
            return
        seen, mine = self._record, self._is_mine()
        if seen is None or not (mine or self._is_free()):
            return
        change = {
            "metadata": {"resourceVersion": seen.version},
            "spec": self._spec(seen.transitions + (not mine), fresh=not mine),
        }
        began = self._monotonic()
        self._take(
            await self._api.patch(self._path, change, MERGE_PATCH, self._timing.answer), began
        )

    def _is_mine(self) -> bool:
        return self._record is not None and self._record.holder == self._identity

    def _is_free(self) -> bool:
        """Whether nobody has renewed it for as long as its holder said, by our own clock."""
        seen = self._record
        return (
            seen is None
            or not seen.holder
            or self._monotonic() > self._seen_at + max(seen.seconds, self._timing.lease)
        )

    def _spec(self, transitions: int, *, fresh: bool) -> dict[str, object]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, object] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(round(self._timing.lease), 1),
            "leaseTransitions": transitions,
            "renewTime": now,
        }
        return {**spec, "acquireTime": now} if fresh else spec

    def _take(self, item: Mapping[str, Any], began: float) -> None:
        self._see(lease_record(item))
        self._until = began + self._timing.renew

    def _see(self, record: LeaseRecord) -> None:
        first = self._record is None
        if self._hear(record) or first:
            self._seen_at = self._monotonic()
        if record.holder != self._identity:
            self._until = -math.inf

    async def _give_back(self) -> None:
        if not self.is_leader() or self._record is None:
            return
        self._until = -math.inf
        change = {
            "metadata": {"resourceVersion": self._record.version},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},
        }
        try:
            await self._api.patch(self._path, change, MERGE_PATCH, self._timing.answer)
        except ApiError:
            return  # it runs out
