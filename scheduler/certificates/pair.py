"""A certificate and its key, checked before anything depends on them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

__all__ = ["CertificateError", "Pair", "certificates", "expired", "is_issued_by", "is_key_of"]

LINE_FEED = b"\n"


class CertificateError(ValueError):
    """A certificate or key that cannot be used; the text names it, says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with those that lead from it to its authority, and its key in PEM."""

    chain: tuple[x509.Certificate, ...]
    key: bytes

    @staticmethod
    def read(chain: bytes, key: bytes, names: tuple[str, str] = ("tls.crt", "tls.key")) -> Pair:
        """Of two PEM texts, called `names` in what is said about them. Raises `CertificateError`
        unless the key is the first certificate's.
        """
        found = certificates(chain, names[0])
        if not is_key_of(found[0], key, names[1]):
            raise CertificateError(
                f"{names[1]} is not the key of the first certificate in {names[0]}: one of them is "
                "older than the other, or the chain does not begin with the server's certificate"
            )
        return Pair(found, key)

    @property
    def certificate(self) -> x509.Certificate:
        """The one that the key belongs to."""
        return self.chain[0]

    @property
    def chain_pem(self) -> bytes:
        """Certificates only."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)


def certificates(text: bytes, name: str) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, at least one. Raises `CertificateError`."""
    try:
        return tuple(x509.load_pem_x509_certificates(text))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"{name} holds no certificate in PEM: {_first_line(error)}"
        ) from None


def is_key_of(certificate: x509.Certificate, key: bytes, name: str) -> bool:
    """Whether a key in PEM is that of a certificate. Raises `CertificateError` when it is none."""
    try:
        private = load_pem_private_key(key, None)
        public, certified = private.public_key(), certificate.public_key()
    except TypeError:
        raise CertificateError(
            f"{name} is encrypted, and nobody could tell its password: store it without one"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{name} holds no key in PEM: {_first_line(error)}") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == certified.public_bytes(*form)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority's key signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def expired(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether nobody accepts the certificate any more. `now` has a zone."""
    return certificate.not_valid_after_utc <= now


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
