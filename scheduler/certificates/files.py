"""A certificate that somebody else renews: a mounted Secret, cert-manager's, or plain files.

Directories are watched, not files, because Kubernetes swaps a mounted Secret by renaming the link
``..data`` beside it; a slow poll stands behind the watch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from deviceplugin.directorywatch import POLL_SECONDS, DirectoryWatch, identity
from deviceplugin.scheduler.certificates.pair import CertificateError, Pair, expired
from deviceplugin.scheduler.certificates.serving import Serving

__all__ = ["CertificateFiles"]

DEBOUNCE_SECONDS = 0.2
"""A swap is several events."""


class CertificateFiles:
    """Serves what two PEM files hold, as long as it can be used."""

    def __init__(
        self,
        chain: Path,
        key: Path,
        serving: Serving,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        debounce: float = DEBOUNCE_SECONDS,
        poll: float = POLL_SECONDS,
    ) -> None:
        self._chain, self._key, self._serving, self._now = chain, key, serving, now
        self._debounce, self._poll = debounce, poll
        self._wake = asyncio.Event()

    def load(self) -> None:
        """Serve what the files hold at the start, even if it has expired: there is nothing else.
        Raises `CertificateError`.
        """
        self._serving.serve(self._pair(*self._read()), f"read from {self._chain}")

    async def run(self) -> None:
        """Take up what changes, until cancelled."""
        watch = DirectoryWatch(self._wake.set, *{self._chain.parent, self._key.parent})
        watching = asyncio.create_task(watch.run(self._poll))
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(self._debounce)
                self._wake.clear()
                await self._look()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _look(self) -> None:
        try:
            before = self._identities()
            found = await asyncio.to_thread(self._read)
            if self._identities() != before:
                self._wake.set()  # between two halves; there will be a whole one
                return
            pair = self._pair(*found)
            if expired(pair.certificate, self._now()):
                until = pair.certificate.not_valid_after_utc.isoformat()
                raise CertificateError(f"{self._chain} expired at {until}: renew it")
            self._serving.serve(pair, f"{self._chain} has changed")
        except CertificateError as error:
            self._serving.refuse(str(error))

    def _read(self) -> tuple[bytes, bytes]:
        """Raises `CertificateError`."""
        try:
            return self._chain.read_bytes(), self._key.read_bytes()
        except OSError as error:
            raise CertificateError(
                f"{error.filename}: {error.strerror}; see --cert_file and --key_file"
            ) from None

    def _pair(self, chain: bytes, key: bytes) -> Pair:
        return Pair.read(chain, key, (str(self._chain), str(self._key)))

    def _identities(self) -> object:
        return identity(self._chain), identity(self._key)
