"""What the replicas' Secret holds, and what of it is due. Pure.

A superseded authority keeps its key and stays trusted until nobody serves a certificate of its own
any more. So there is never an instant at which a certificate is served that API servers were not
told to trust, and a renewal never waits for them either.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deviceplugin.scheduler.certificates.issuing import (
    Lifetimes,
    can_sign,
    hosts_of,
    issued_at,
    new_authority,
    new_serving,
    renew_at,
)
from deviceplugin.scheduler.certificates.pair import (
    CertificateError,
    Pair,
    certificates,
    expired,
    is_issued_by,
    is_key_of,
)

__all__ = ["Authority", "Found", "Kept", "data_of", "found_in", "next_due", "renewed"]

BUNDLE, AUTHORITY_KEYS, CHAIN, KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
"""Keys of the Secret: all authorities to trust, the newest first; the keys of those that still
sign; the serving certificate; its key.
"""

_PEM = re.compile(rb"-----BEGIN [^-]+-----.+?-----END [^-]+-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Authority:
    """One to trust. `key` is empty where it can sign no more."""

    certificate: x509.Certificate
    key: bytes = b""

    @property
    def pair(self) -> Pair:
        """With which to sign."""
        return Pair((self.certificate,), self.key)


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole Secret: the newest authority, which can sign, comes first; one of them issued what is
    served.
    """

    authorities: tuple[Authority, ...]
    serving: Pair

    @property
    def bundle(self) -> bytes:
        """Everybody to trust, in PEM."""
        return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in self.authorities)

    @property
    def issuer(self) -> Authority | None:
        """Who issued what is served."""
        return _issuer(self.serving, self.authorities)


@dataclass(frozen=True, slots=True)
class Found:
    """What could be read of a Secret, and what is wrong with it. It `is_empty` where nobody has
    put anything in.
    """

    authorities: tuple[Authority, ...] = ()
    serving: Pair | None = None
    problems: tuple[str, ...] = ()
    is_empty: bool = False

    @property
    def whole(self) -> Kept | None:
        """Where nothing is wrong."""
        if self.serving is None or self.problems:
            return None
        return Kept(self.authorities, self.serving)


def found_in(data: Mapping[str, str]) -> Found:
    """A Secret's data, in base64 as on the wire."""
    if not any(data.values()):
        return Found(is_empty=True)
    problems: list[str] = []
    authorities = _authorities(data, problems)
    serving = None
    try:
        serving = Pair.read(_text(data, CHAIN), _text(data, KEY), (CHAIN, KEY))
        if _issuer(serving, authorities) is None:
            serving = None
            raise CertificateError(f"{CHAIN} was issued by none of {BUNDLE}")
    except CertificateError as error:
        problems.append(str(error))
    return Found(authorities, serving, tuple(problems))


def data_of(kept: Kept) -> dict[str, str]:
    """A Secret's data."""
    texts = {
        BUNDLE: kept.bundle,
        AUTHORITY_KEYS: b"".join(each.key for each in kept.authorities),
        CHAIN: kept.serving.chain_pem,
        KEY: kept.serving.key,
    }
    return {name: base64.b64encode(text).decode() for name, text in texts.items()}


def renewed(
    found: Found,
    remembered: Kept | None,
    hosts: Iterable[str],
    now: datetime,
    lifetimes: Lifetimes,
    *,
    published: bool,
) -> tuple[Kept, tuple[str, ...]]:
    """What the Secret should hold now, and why it is not what it holds: no reasons, no change.

    `remembered` is what this replica last saw whole: it mends a Secret that was damaged, and covers
    the time until a new authority is known where one was emptied. `hosts` are those to serve.
    `published` says that every API server trusts all authorities that were found.
    """
    reasons = list(found.problems)
    if found.is_empty:
        reasons.append("the Secret is empty")
    authorities, serving = _mended(found, remembered)
    trusted = tuple(each for each in authorities if not expired(each.certificate, now))
    if len(trusted) < len(authorities):
        reasons.append("an authority has expired")
    if reason := _why_new_authority(found, trusted, now):
        reasons.append(reason)
        made = new_authority(now, lifetimes)
        trusted = (Authority(made.certificate, made.key), *trusted)
        published = False
    newest = trusted[0]
    serving, issuer, reason = _served(serving, trusted, frozenset(hosts), now, lifetimes, published)
    reasons += [reason] if reason else []
    if len(trusted) > 1 and issuer == newest and _is_past_overlap(serving, now, lifetimes):
        reasons.append("nobody serves a certificate of an older authority any more")
        trusted = (newest,)
    return Kept(trusted, serving), tuple(reasons)


def next_due(kept: Kept, lifetimes: Lifetimes) -> datetime:
    """When something is due at the earliest, as far as time alone decides."""
    times = [renew_at(kept.authorities[0].certificate), renew_at(kept.serving.certificate)]
    if len(kept.authorities) > 1 and kept.issuer == kept.authorities[0]:
        times.append(issued_at(kept.serving.certificate) + lifetimes.overlap)
    return min(times)


def _authorities(data: Mapping[str, str], problems: list[str]) -> tuple[Authority, ...]:
    try:
        bundle = certificates(_text(data, BUNDLE), BUNDLE)
    except CertificateError as error:
        problems.append(str(error))
        return ()
    found = []
    for certificate in bundle:
        if _is_authority(certificate):
            found.append(Authority(certificate, _key_of(certificate, data, problems)))
        else:
            subject = certificate.subject.rfc4514_string()
            problems.append(f"{subject} in {BUNDLE} is no authority's certificate")
    if found and not found[0].key:
        problems.append(f"{AUTHORITY_KEYS} has no key of the first certificate in {BUNDLE}")
    return tuple(found)


def _key_of(certificate: x509.Certificate, data: Mapping[str, str], problems: list[str]) -> bytes:
    try:
        for key in _PEM.findall(_text(data, AUTHORITY_KEYS)):
            if is_key_of(certificate, key, AUTHORITY_KEYS) and can_sign(key):
                return bytes(key)
    except CertificateError as error:
        problems.append(str(error))
    return b""


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return constraints.value.ca


def _text(data: Mapping[str, str], key: str) -> bytes:
    try:
        return base64.b64decode(data.get(key) or "", validate=True)
    except (binascii.Error, ValueError):
        raise CertificateError(f"{key} is not base64") from None


def _issuer(serving: Pair, authorities: Iterable[Authority]) -> Authority | None:
    certificate = serving.certificate
    return next((a for a in authorities if is_issued_by(certificate, a.certificate)), None)


def _mended(found: Found, remembered: Kept | None) -> tuple[tuple[Authority, ...], Pair | None]:
    """What was found, completed by what is remembered."""
    if remembered is None:
        return found.authorities, found.serving
    if not found.authorities or not found.authorities[0].key:
        return remembered.authorities, remembered.serving
    if found.serving is None and _issuer(remembered.serving, found.authorities) is not None:
        return found.authorities, remembered.serving
    return found.authorities, found.serving


def _why_new_authority(found: Found, trusted: tuple[Authority, ...], now: datetime) -> str:
    if not trusted:
        return "there is no authority"
    if not trusted[0].key:
        return "the newest authority cannot sign"
    if found.is_empty:
        # Whoever empties or removes the Secret wants another authority.
        return "the authority is to be replaced"
    if renew_at(trusted[0].certificate) <= now:
        return "the authority is to be renewed"
    return ""


def _served(
    serving: Pair | None,
    trusted: tuple[Authority, ...],
    hosts: frozenset[str],
    now: datetime,
    lifetimes: Lifetimes,
    published: bool,
) -> tuple[Pair, Authority, str]:
    """What to serve, who issued it, and why it is another one; empty where it is not."""
    newest = trusted[0]

    def made(signer: Authority, names: frozenset[str], reason: str) -> tuple[Pair, Authority, str]:
        return new_serving(signer.pair, names, now, lifetimes), signer, reason

    issuer = None if serving is None else _issuer(serving, trusted)
    if serving is None or issuer is None or expired(serving.certificate, now):
        return made(newest, hosts, "there is no serving certificate that anybody accepts")
    if issuer != newest and published:
        return made(newest, hosts, "the new authority is trusted everywhere")
    if issuer.key:
        named = hosts_of(serving.certificate)
        if missing := hosts - named:
            # With the others': replicas that are told of different hosts would take turns.
            reason = f"the serving certificate is not for {', '.join(sorted(missing))}"
            return made(issuer, hosts | named, reason)
        if renew_at(serving.certificate) <= now:
            return made(issuer, hosts, "the serving certificate is to be renewed")
    return serving, issuer, ""


def _is_past_overlap(serving: Pair, now: datetime, lifetimes: Lifetimes) -> bool:
    return issued_at(serving.certificate) + lifetimes.overlap <= now
