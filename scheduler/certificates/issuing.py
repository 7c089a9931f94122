"""Makes authorities and serving certificates. Pure but for the randomness of keys.

Keys are ECDSA P-256. Certificates begin a day before they are made: clocks of replicas, nodes and
API servers differ, at worst by a wrong time zone, and whoever's clock is ahead renews first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deviceplugin.scheduler.certificates.pair import Pair

__all__ = [
    "SKEW",
    "Lifetimes",
    "can_sign",
    "hosts_of",
    "issued_at",
    "new_authority",
    "new_serving",
    "renew_at",
]

SKEW = timedelta(days=1)
"""By how much clocks may differ."""

NAME = "deviceplugin scheduler"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates are good for; each is renewed when a third of its time is left. A
    superseded authority stays trusted for `overlap` after the last certificate of its own was
    replaced, so that every replica has taken up the new one. Raises `ValueError`.
    """

    authority: timedelta = timedelta(days=5 * 365)
    serving: timedelta = timedelta(days=90)
    overlap: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        if not self.authority >= 6 * self.serving > timedelta(0) <= self.overlap:
            raise ValueError(
                f"an authority of {self.authority} has to last at least six times as long as a "
                f"serving certificate of {self.serving}, and an overlap of {self.overlap} not "
                "less than nothing"
            )


def new_authority(now: datetime, lifetimes: Lifetimes) -> Pair:
    """An authority that signs serving certificates and nothing else."""
    serial = x509.random_serial_number()
    # A name of its own each: whoever looks for an issuer by name finds the right one at once.
    name = _name(f"{NAME} authority {serial:x}"[:64])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(name, name, key, serial, now, now + lifetimes.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return Pair((builder.sign(key, SHA256()),), _pem(key))


def new_serving(authority: Pair, hosts: Iterable[str], now: datetime, lifetimes: Lifetimes) -> Pair:
    """A server's certificate for host names and addresses. Ends with its authority at the latest.
    Raises `ValueError` for what is no host name.
    """
    signer = _signer(authority.key)
    if signer is None:
        raise ValueError("the authority's key signs no certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    names = [_general(host) for host in sorted(set(hosts))]
    until = min(now + lifetimes.serving, issuer.not_valid_after_utc)
    builder = (
        _builder(_name(NAME), issuer.subject, key, x509.random_serial_number(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    return Pair((builder.sign(signer, SHA256()),), _pem(key))


def can_sign(key: bytes) -> bool:
    """Whether certificates can be signed with a key in PEM."""
    return _signer(key) is not None


def renew_at(certificate: x509.Certificate) -> datetime:
    """When a third of its time is left."""
    end = certificate.not_valid_after_utc
    return end - (end - certificate.not_valid_before_utc) / 3


def issued_at(certificate: x509.Certificate) -> datetime:
    """When it was made, by the clock of its maker."""
    return certificate.not_valid_before_utc + SKEW


def hosts_of(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and addresses that a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    names = extension.value
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return frozenset((*names.get_values_for_type(x509.DNSName), *addresses))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _signer(key: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None:
    found = load_pem_private_key(key, None)
    return found if isinstance(found, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) else None


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
