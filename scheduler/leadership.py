"""Which replica decides (hami-scheduler.md 1.7, 10.5).

Beside kube-scheduler in one pod, the Lease that kube-scheduler holds is followed: who holds it is
asked for filters and binds. Behind a Service, replicas elect one of them on a Lease of their own.
Leadership is never a flag: it is worked out at the instant when somebody asks, by a monotonic
clock, so that it ends in time even where nobody is there to end it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from deviceplugin.apiserver.client import MERGE_PATCH, Api, ApiError, Path
from deviceplugin.apiserver.reflector import Change, Reflector

__all__ = ["Elected", "Followed", "Timing"]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease: who holds it, for how many seconds after each renewal, how often it changed hands,
    and when its holder says to have renewed it, which is a text to compare and nothing else:
    clocks differ.
    """

    holder: str
    seconds: float
    transitions: int
    renewed: str
    version: str


def lease_record(item: Mapping[str, Any]) -> LeaseRecord:
    """A Lease from its JSON."""
    spec = item.get("spec") or {}
    return LeaseRecord(
        str(spec.get("holderIdentity") or ""),
        float(spec.get("leaseDurationSeconds") or 0),
        int(spec.get("leaseTransitions") or 0),
        str(spec.get("renewTime") or ""),
        str((item.get("metadata") or {}).get("resourceVersion") or ""),
    )


class _Lease:
    """A Lease as it was last heard of, and for how long it has not been renewed."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._record: LeaseRecord | None = None
        self._renewed_at = 0.0

    @property
    def holder(self) -> str:
        """Who leads, for people."""
        return self._record.holder if self._record and self._record.holder else "nobody"

    @property
    def term(self) -> int:
        """Another number whenever somebody else took over."""
        return self._record.transitions if self._record else 0

    def _hear(self, record: LeaseRecord | None) -> None:
        """Only a renewal counts as one: a Lease may change, or be listed again, without."""
        before, self._record = self._record, record
        if record is not None and (
            before is None or (before.holder, before.renewed) != (record.holder, record.renewed)
        ):
            self._renewed_at = self._monotonic()


class Followed(_Lease):
    """Leads as long as the kube-scheduler on this host name does."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        hostname: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(monotonic)
        self._hostname = hostname
        path = Path(LEASES, {"namespace": namespace})
        self._reflector = Reflector[LeaseRecord](
            api, path, lease_record, self._heard, field_selector=f"metadata.name={name}"
        )

    def is_leader(self) -> bool:
        """At this instant."""
        record = self._record
        return (
            record is not None
            and self._is_mine(record.holder)
            and self._monotonic() < self._renewed_at + record.seconds
        )

    async def run(self) -> None:
        """Until cancelled."""
        await self._reflector.run()

    def _is_mine(self, holder: str) -> bool:
        """``<hostname>_<uuid>``: the whole name, not its beginning (hami-scheduler.md 10.5)."""
        return holder.rpartition("_")[0] == self._hostname or holder == self._hostname

    def _heard(self, change: Change[LeaseRecord]) -> None:
        self._hear(change.new)


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


class Elected(_Lease):
    """Leads as long as it holds a Lease, which it tries to get as long as it runs."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(monotonic)
        self._api, self._identity = api, identity
        self._timing = timing or Timing()
        self._collection = Path(LEASES, {"namespace": namespace})
        self._path = Path(LEASES + "/{name}", {"namespace": namespace, "name": name})
        self._name = name
        self._until = 0.0
        self._log = structlog.get_logger().bind(lease=f"{namespace}/{name}")

    def is_leader(self) -> bool:
        """At this instant."""
        return self._monotonic() < self._until

    async def run(self) -> None:
        """Until cancelled; what is held then is given back."""
        led = False
        try:
            while True:
                try:
                    # So that one request without an answer does not cost the whole deadline.
                    async with asyncio.timeout((self._timing.renew - self._timing.retry) / 2):
                        await self._round()
                except (ApiError, TimeoutError) as error:
                    reason = str(error) or "no answer in time"
                    self._log.warning("the lease was not renewed", reason=reason)
                if self.is_leader() != led:
                    led = not led
                    self._log.info("leads" if led else "leads no more", holder=self.holder)
                await asyncio.sleep(self._timing.retry * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            await self._give_back()

    async def _round(self) -> None:
        # What counts is when the request was sent: it may be answered much later.
        began = self._monotonic()
        try:
            self._see(lease_record(await self._api.get(self._path)))
        except ApiError as error:
            if not error.is_missing:
                raise
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": self._spec(0, fresh=True),
            }
            self._take(await self._api.create(self._collection, body), began)
            return
        seen = self._record
        mine = seen is not None and seen.holder == self._identity
        if seen is None or not (mine or self._is_free(seen)):
            return
        transitions = seen.transitions + (not mine)
        change = {
            "metadata": {"resourceVersion": seen.version},
            "spec": self._spec(transitions, fresh=not mine),
        }
        began = self._monotonic()
        self._take(await self._api.patch(self._path, change, MERGE_PATCH), began)

    def _is_free(self, seen: LeaseRecord) -> bool:
        """Whether its holder has not renewed it for as long as it said, by our own clock."""
        return not seen.holder or self._monotonic() > self._renewed_at + max(
            seen.seconds, self._timing.lease
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
        self._hear(record)
        if record.holder != self._identity:
            self._until = 0.0

    async def _give_back(self) -> None:
        if not self.is_leader() or self._record is None:
            return
        self._until = 0.0
        change = {
            "metadata": {"resourceVersion": self._record.version},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},
        }
        try:
            await self._api.patch(self._path, change, MERGE_PATCH)
        except ApiError:
            return  # it runs out
