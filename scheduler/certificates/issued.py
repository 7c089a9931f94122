"""A certificate that the replicas issue themselves, kept in a Secret that they share.

Each looks at the Secret whenever it changes and when something is due. What is due, any of them
writes, on exactly what it read; whoever was slower reads again and finds it done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from deviceplugin.apiserver.client import MERGE_PATCH, Api, ApiError, Path
from deviceplugin.apiserver.reflector import Reflector
from deviceplugin.scheduler.certificates.issuing import Lifetimes
from deviceplugin.scheduler.certificates.keeping import (
    Found,
    Kept,
    data_of,
    found_in,
    next_due,
    renewed,
)
from deviceplugin.scheduler.certificates.pair import CertificateError
from deviceplugin.scheduler.certificates.publishing import Configuration, Publishing
from deviceplugin.scheduler.certificates.serving import Serving

__all__ = ["SECRET_TYPE", "IssuedCertificate", "Pace"]

SECRET_TYPE = "scheduler.deviceplugin.dev/certificates"  # noqa: S105
"""A Secret's type never changes, so it tells for ever whose Secret it is."""

SECRETS = "/api/v1/namespaces/{namespace}/secrets"
CONFLICT = 409
TRIES = 10
"""At one look, while others write too."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. An API server hears within `settle` whom it should trust. The Secret is looked at
    every `poll` in any case, `again` after a failure, and never oftener than every `pause`.
    """

    settle: float = 60.0
    poll: float = 300.0
    again: float = 10.0
    pause: float = 1.0


class IssuedCertificate:
    """Serves what the Secret holds, and sees to it that it holds something good."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        hosts: Iterable[str],
        configurations: Iterable[Configuration],
        serving: Serving,
        *,
        lifetimes: Lifetimes | None = None,
        pace: Pace | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._name, self._serving = api, name, serving
        self._hosts = frozenset(hosts)
        self._lifetimes, self._pace = lifetimes or Lifetimes(), pace or Pace()
        self._now, self._monotonic = now, monotonic
        self._collection = Path(SECRETS, {"namespace": namespace})
        self._path = Path(SECRETS + "/{name}", {"namespace": namespace, "name": name})
        self._wake = asyncio.Event()
        self.publishing = Publishing(api, tuple(configurations), self.nudge)
        self.kept: Kept | None = None
        """What the Secret held when it was last seen whole."""
        self._published: tuple[bytes, float] | None = None
        """The bundle that all configurations hold, and since when they are known to."""
        self._log = structlog.get_logger().bind(secret=f"{namespace}/{name}")

    def nudge(self) -> None:
        """Look again soon. Call it on the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch().run())
            group.create_task(self.publishing.run())
            group.create_task(self._looking())

    async def _looking(self) -> None:
        while True:
            self._wake.clear()
            seconds = await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds * random.uniform(1.0, 1.1)):  # noqa: S311
                    await self._wake.wait()
            await asyncio.sleep(self._pace.pause)

    async def look(self) -> float:
        """Do what is due now; after how many seconds to look again."""
        try:
            kept = await self._settled()
        except (ApiError, CertificateError) as error:
            self._serving.refuse(str(error))
            return self._pace.again
        left = (next_due(kept, self._lifetimes) - self._now()).total_seconds()
        if self._published is None:
            return self._pace.again
        if kept.issuer != kept.authorities[0]:
            left = min(left, self._published[1] + self._pace.settle - self._monotonic())
        return min(max(left, self._pace.again), self._pace.poll)

    async def _settled(self) -> Kept:
        """What the Secret holds once nothing is due. Raises `ApiError` and `CertificateError`."""
        for _ in range(TRIES):
            secret = await self._read()
            found = self._found(secret)
            if (kept := found.whole) is not None:
                self.kept = kept
                self._serving.serve(kept.serving, "it is in the Secret")
                await self._publish(kept.bundle)
            due, reasons = renewed(
                found,
                self.kept,
                self._hosts,
                self._now(),
                self._lifetimes,
                published=kept is not None and self._is_published(),
            )
            if kept is not None and not reasons:
                return kept
            if await self._written(secret, due):
                self._log.info("certificates were issued", reasons=list(reasons))
        raise CertificateError(f"{self._path} is written by others all the time")

    def _found(self, secret: Mapping[str, Any] | None) -> Found:
        """Raises `CertificateError` for a Secret that is not the scheduler's."""
        if secret is None:
            return Found(is_empty=True)
        if secret.get("type") != SECRET_TYPE:
            raise CertificateError(
                f"{self._path} is somebody else's: its type is {secret.get('type')!r}, not "
                f"{SECRET_TYPE!r}; give the name of another Secret with --tls-secret, or mount "
                "this one and give its files with --cert_file and --key_file"
            )
        return found_in(secret.get("data") or {})

    async def _publish(self, bundle: bytes) -> None:
        if not await self.publishing.publish(bundle):
            self._published = None
        elif self._published is None or self._published[0] != bundle:
            self._published = (bundle, self._monotonic())

    def _is_published(self) -> bool:
        """Whether every API server trusts all authorities that were found, as far as one knows."""
        if self._published is None:
            return False
        return self._monotonic() >= self._published[1] + self._pace.settle

    async def _read(self) -> Mapping[str, Any] | None:
        try:
            return await self._api.get(self._path)
        except ApiError as error:
            if error.is_missing:
                return None
            raise

    async def _written(self, secret: Mapping[str, Any] | None, kept: Kept) -> bool:
        """Whether the write came on exactly what was read. Raises `ApiError`."""
        body: dict[str, object] = {"metadata": {"name": self._name}, "data": data_of(kept)}
        try:
            if secret is None:
                body |= {"apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE}
                await self._api.create(self._collection, body)
            else:
                version = (secret.get("metadata") or {}).get("resourceVersion")
                body["metadata"] = {"resourceVersion": version}
                await self._api.patch(self._path, body, MERGE_PATCH)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311
            return False
        return True

    def _watch(self) -> Reflector[str]:
        return Reflector[str](
            self._api,
            self._collection,
            lambda item: str(item["metadata"]["resourceVersion"]),
            lambda _change: self.nudge(),
            field_selector=f"metadata.name={self._name}",
        )
