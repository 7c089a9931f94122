"""Certificates are what clients take, and what is wrong with a pair is said."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from deviceplugin.scheduler.certificates.issuing import (
    SKEW,
    Lifetimes,
    hosts_of,
    issued_at,
    new_authority,
    new_serving,
    renew_at,
)
from deviceplugin.scheduler.certificates.pair import CertificateError, Pair, is_issued_by

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOSTS = ("deviceplugin-scheduler.deviceplugin-system.svc", "127.0.0.1", "::1", "localhost")
LIFETIMES = Lifetimes()


def made() -> tuple[Pair, Pair]:
    authority = new_authority(NOW, LIFETIMES)
    return authority, new_serving(authority, HOSTS, NOW, LIFETIMES)


def verify(authority: Pair, serving: Pair, host: str, at: datetime) -> None:
    builder = PolicyBuilder().store(Store([authority.certificate])).time(at)
    verifier = builder.build_server_verifier(x509.DNSName(host))
    verifier.verify(serving.certificate, [])


def test_a_strict_client_takes_them_also_if_its_clock_is_late() -> None:
    authority, serving = made()
    verify(authority, serving, HOSTS[0], NOW)
    verify(authority, serving, HOSTS[0], NOW - SKEW)
    verify(authority, serving, HOSTS[0], NOW + LIFETIMES.serving)
    for host, at in (("example.com", NOW), (HOSTS[0], NOW + LIFETIMES.serving * 1.1)):
        with pytest.raises(VerificationError):
            verify(authority, serving, host, at)


def test_what_they_say() -> None:
    authority, serving = made()
    assert hosts_of(serving.certificate) == set(HOSTS)
    assert issued_at(serving.certificate) == NOW
    assert is_issued_by(serving.certificate, authority.certificate)
    assert not is_issued_by(serving.certificate, new_authority(NOW, LIFETIMES).certificate)
    before, end = NOW - SKEW, NOW + LIFETIMES.serving
    assert renew_at(serving.certificate) == end - (end - before) / 3
    assert hosts_of(authority.certificate) == frozenset()


def test_none_lasts_longer_than_its_authority() -> None:
    authority = new_authority(NOW, LIFETIMES)
    late = NOW + LIFETIMES.authority - timedelta(days=1)
    serving = new_serving(authority, HOSTS, late, LIFETIMES)
    assert serving.certificate.not_valid_after_utc == NOW + LIFETIMES.authority


@pytest.mark.parametrize(
    ("authority", "serving", "overlap"), [(10, 2, 1), (10, 0, 1), (10, 1, -1), (-10, -20, 1)]
)
def test_lifetimes_that_make_no_sense_are_refused(
    authority: int, serving: int, overlap: int
) -> None:
    with pytest.raises(ValueError, match="six times"):
        Lifetimes(*(timedelta(days=days) for days in (authority, serving, overlap)))


def test_a_pair_is_read_as_it_was_written() -> None:
    authority, serving = made()
    chain = Pair((serving.certificate, authority.certificate), serving.key)
    assert Pair.read(chain.chain_pem, chain.key) == chain


def test_what_is_wrong_with_a_pair_is_said() -> None:
    authority, serving = made()
    der = base64.b64encode(serving.certificate.public_bytes(Encoding.DER))
    key = load_pem_private_key(serving.key, None)
    form = (Encoding.PEM, PrivateFormat.PKCS8)
    encrypted = key.private_bytes(*form, BestAvailableEncryption(b"x"))
    for chain, private, reason in (
        (der, serving.key, "tls.crt holds no certificate in PEM"),
        (b"", serving.key, "tls.crt holds no certificate in PEM"),
        (serving.chain_pem, b"", "tls.key holds no key in PEM"),
        (serving.chain_pem, serving.chain_pem, "tls.key holds no key in PEM"),
        (serving.chain_pem, encrypted, "tls.key is encrypted"),
        (serving.chain_pem, authority.key, "tls.key is not the key of the first"),
        (authority.chain_pem + serving.chain_pem, serving.key, "does not begin with the server's"),
    ):
        with pytest.raises(CertificateError, match=reason):
            Pair.read(chain, private)


def test_openssl_takes_the_authority_as_one() -> None:
    authority, _ = made()
    context = ssl.create_default_context(cadata=authority.chain_pem.decode())
    assert len(context.get_ca_certs()) == 1
