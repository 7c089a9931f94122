"""Hands the certificate in force to every new connection, through one context for all of them.

The context that listens has no certificate: at each handshake OpenSSL asks, and is referred to the
context of the pair in force. So a pair counts from one connection to the next, open connections
stay as they are, and a pair that OpenSSL does not take changes nothing. (Loaded into one and the
same context, a pair of another key type would stand beside the old one instead of in its place, and
one that does not match would leave half of itself behind.)
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from deviceplugin.scheduler.certificates.pair import CertificateError, Pair, expired

__all__ = ["Serving"]

NAME = "certificate"


class Serving:
    """What is served. `waiting` says why there is nothing yet."""

    def __init__(
        self,
        waiting: str = "there is none yet",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """To listen with."""
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.sni_callback = self._greeted
        self.pair: Pair | None = None
        self.failures = 0
        """Pairs and Secrets that could not be used, so far."""
        self.problem = waiting
        """Why a newer pair is not in force; empty while all is well."""
        self._now = now
        self._current: ssl.SSLContext | None = None
        self._log = structlog.get_logger()

    def serve(self, pair: Pair, reason: str) -> None:
        """From the next connection on. `reason` is for the log. Raises `CertificateError` where
        OpenSSL does not take it; the old one stays then.
        """
        if pair == self.pair:
            self.problem = ""
            return
        self._current = _context(pair)
        self.pair, self.problem = pair, ""
        certificate = pair.certificate
        self._log.info(
            "a certificate is in force",
            reason=reason,
            serial=f"{certificate.serial_number:x}",
            until=certificate.not_valid_after_utc.isoformat(),
        )

    def refuse(self, reason: str) -> None:
        """What is in force stays so; the same reason is told once."""
        if reason == self.problem:
            return
        self.failures += 1
        self.problem = reason
        kept = self.pair.certificate.not_valid_after_utc.isoformat() if self.pair else "none"
        self._log.error("a certificate is not taken, the old one stays", reason=reason, until=kept)

    def blockers(self) -> Mapping[str, str]:
        """Why nobody who looks at certificates can talk to this replica, by name."""
        if self.pair is None:
            return {NAME: self.problem}
        certificate = self.pair.certificate
        if expired(certificate, self._now()):
            until = certificate.not_valid_after_utc.isoformat()
            return {NAME: f"it expired at {until}; {self.problem or 'no newer one has come'}"}
        return {}

    def _greeted(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        """At every handshake, whether or not the client names a host."""
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None


def _context(pair: Pair) -> ssl.SSLContext:
    """A context with this pair alone. Raises `CertificateError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The module reads files only; this one is memory, so that the key is on no disk.
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(file, "wb", closefd=False) as writer:
            writer.write(pair.chain_pem + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    except ssl.SSLError as error:
        raise CertificateError(f"OpenSSL does not take the pair: {error}") from None
    finally:
        os.close(file)
    return context
