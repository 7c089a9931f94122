"""A given certificate changes under a running server, and no request fails."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from deviceplugin.scheduler.certificates.files import CertificateFiles
from deviceplugin.scheduler.certificates.pair import CertificateError, Pair
from deviceplugin.scheduler.certificates.serving import Serving

QUICK: dict[str, Any] = {"debounce": 0.01, "poll": 0.1}
LONG = timedelta(days=1000)

DAMAGES: dict[str, Callable[[Pair, Pair], tuple[bytes, bytes]]] = {
    "half a certificate": lambda new, _: (new.chain_pem[: len(new.chain_pem) // 2], new.key),
    "half a key": lambda new, _: (new.chain_pem, new.key[: len(new.key) // 2]),
    "empty files": lambda _new, _old: (b"", b""),
    "the key of the old one": lambda new, old: (new.chain_pem, old.key),
    "no PEM": lambda new, _: (b"\0\xff" * 100, new.key),
}


@contextlib.asynccontextmanager
async def served(
    making: Any, running: Any, files: tuple[Path, Path], clock: Callable[[], Any] | None = None
) -> AsyncIterator[tuple[Serving, Any]]:
    clock = clock or making.Clock()
    serving = Serving(now=clock)
    keeper = CertificateFiles(*files, serving, clock, **QUICK)
    keeper.load()
    async with making.asking(serving.context) as client, running(keeper):
        yield serving, client


async def test_a_swapped_secret_counts_from_the_next_connection_on(
    making: Any, running: Any, mounted: Any
) -> None:
    first = making.pair()
    mounted.put(first.chain_pem, first.key)
    async with served(making, running, mounted.files) as (serving, client):
        assert client.serial == first.certificate.serial_number
        for _ in range(5):
            pair = making.pair()
            mounted.put(pair.chain_pem, pair.key)
            await client.sees(pair)
        assert serving.failures == 0
        assert serving.blockers() == {}


@pytest.mark.parametrize("damage", list(DAMAGES))
async def test_what_is_no_pair_leaves_the_old_one_in_force_until_it_is_one(
    making: Any, running: Any, mounted: Any, damage: str
) -> None:
    first, pair = making.pair(), making.pair()
    mounted.put(first.chain_pem, first.key)
    async with served(making, running, mounted.files) as (serving, client):
        mounted.put(*DAMAGES[damage](pair, first))
        await client.until(lambda: serving.failures)
        await client.more()
        assert client.serial == first.certificate.serial_number
        assert "/tls/tls." in serving.problem
        assert serving.blockers() == {}
        mounted.put(pair.chain_pem, pair.key)
        await client.sees(pair)
        assert serving.problem == ""
        assert serving.failures == 1


async def test_files_that_are_written_in_place_one_after_the_other(
    making: Any, running: Any, tmp_path: Path
) -> None:
    first, pair = making.pair(), making.pair()
    files = tmp_path / "server.pem", tmp_path / "server.key"
    files[0].write_bytes(first.chain_pem)
    files[1].write_bytes(first.key)
    async with served(making, running, files) as (serving, client):
        files[0].write_bytes(pair.chain_pem)
        await client.until(lambda: "is not the key" in serving.problem)
        await client.more()
        assert client.serial == first.certificate.serial_number
        files[1].write_bytes(pair.key)
        await client.sees(pair)


async def test_files_that_go_and_come_again(making: Any, running: Any, tmp_path: Path) -> None:
    first = making.pair()
    files = tmp_path / "server.pem", tmp_path / "server.key"
    files[0].write_bytes(first.chain_pem)
    files[1].write_bytes(first.key)
    async with served(making, running, files) as (serving, client):
        files[1].unlink()
        await client.until(lambda: "--key_file" in serving.problem)
        await client.more()
        files[1].write_bytes(first.key)
        await client.until(lambda: serving.problem == "")
        assert client.serial == first.certificate.serial_number


async def test_one_that_expired_is_not_taken_and_is_told_of_where_nothing_better_is_left(
    making: Any, running: Any, mounted: Any
) -> None:
    first, old, pair = making.pair(), making.pair(-LONG), making.pair()
    mounted.put(first.chain_pem, first.key)
    clock = making.Clock()
    async with served(making, running, mounted.files, clock) as (serving, client):
        mounted.put(old.chain_pem, old.key)
        await client.until(lambda: "expired at" in serving.problem)
        await client.more()
        assert client.serial == first.certificate.serial_number
        assert serving.blockers() == {}
        clock.move(making.lifetimes.serving)
        assert "tls.crt expired at" in serving.blockers()["certificate"]
        clock.move(-making.lifetimes.serving)
        mounted.put(pair.chain_pem, pair.key)
        await client.sees(pair)
        assert serving.blockers() == {}


async def test_a_pair_of_another_key_type_takes_the_place_of_the_old_one(
    making: Any, running: Any, mounted: Any
) -> None:
    """One context that holds both goes on serving the old one to whoever prefers its type."""
    first, last = making.pair(), making.pair()
    between = rsa_pair(making, first)
    mounted.put(first.chain_pem, first.key)
    async with served(making, running, mounted.files) as (_, client):
        for pair in (between, last):
            mounted.put(pair.chain_pem, pair.key)
            await client.sees(pair)


def rsa_pair(making: Any, like: Pair) -> Pair:
    """The same certificate for an RSA key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    old = like.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    signer: Any = load_pem_private_key(making.authority.key, None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair((builder.sign(signer, SHA256()),), pem)


def test_at_the_start_there_has_to_be_a_pair(making: Any, mounted: Any) -> None:
    keeper = CertificateFiles(*mounted.files, Serving())
    with pytest.raises(CertificateError, match=r"tls.crt: No such file.*--cert_file"):
        keeper.load()
    mounted.put(making.pair().chain_pem, making.pair().key)
    with pytest.raises(CertificateError, match="is not the key of the first certificate"):
        keeper.load()


def test_at_the_start_an_expired_one_is_better_than_none(making: Any, mounted: Any) -> None:
    old = making.pair(-LONG)
    mounted.put(old.chain_pem, old.key)
    serving = Serving()
    CertificateFiles(*mounted.files, serving).load()
    assert serving.pair == old
    assert "it expired at" in serving.blockers()["certificate"]


async def test_the_poll_alone_is_enough(
    making: Any, running: Any, mounted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inotify has limits, and some file systems have no events."""

    def exhausted(_self: object) -> None:
        raise OSError("inotify watch limit reached")

    monkeypatch.setattr("deviceplugin.directorywatch.Observer.start", exhausted)
    first, pair = making.pair(), making.pair()
    mounted.put(first.chain_pem, first.key)
    async with served(making, running, mounted.files) as (_, client):
        mounted.put(pair.chain_pem, pair.key)
        await client.sees(pair)
