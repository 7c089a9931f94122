"""Certificates of a test's own, and clients that never stop asking."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deviceplugin.scheduler.certificates.issuing import Lifetimes, new_authority, new_serving
from deviceplugin.scheduler.certificates.pair import Pair
from deviceplugin.scheduler.server import Server

LIFETIMES = Lifetimes()
HOSTS = ("127.0.0.1", "localhost")
SECONDS = 60.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self, at: datetime | None = None) -> None:
        self.at = at or datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.at

    def move(self, by: timedelta) -> None:
        self.at += by


class Client:
    """Asks a server again and again: over a new connection each time that looks at the certificate,
    and over one that stays open.
    """

    def __init__(self, address: tuple[str, int], trust: Callable[[], bytes]) -> None:
        self._address, self._trust = address, trust
        self.failures: list[str] = []
        self.fresh, self.kept = 0, 0
        self.serial = 0
        """Of the certificate that the last new connection saw."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again())
            group.create_task(self._on_one_connection())

    async def more(self, requests: int = 3) -> None:
        """Until so many more requests of either sort were answered."""
        fresh, kept = self.fresh + requests, self.kept + requests
        await self.until(lambda: self.fresh >= fresh and self.kept >= kept)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                assert not self.failures, self.failures
                await asyncio.sleep(0.005)
        assert not self.failures, self.failures

    async def sees(self, pair: Pair) -> None:
        await self.until(lambda: self.serial == pair.certificate.serial_number)
        await self.more()

    async def _again_and_again(self) -> None:
        while True:
            try:
                reader, writer = await self._connected()
                await _asked(reader, writer)
                writer.close()
                self.fresh += 1
            except (OSError, EOFError, ssl.SSLError) as error:
                self.failures.append(f"new connection: {error!r}")
            await asyncio.sleep(0)

    async def _on_one_connection(self) -> None:
        reader, writer = await self._connected()
        while True:
            try:
                await _asked(reader, writer)
                self.kept += 1
            except (OSError, EOFError, ssl.SSLError) as error:
                self.failures.append(f"open connection: {error!r}")
            await asyncio.sleep(0.002)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cadata=self._trust().decode())
        reader, writer = await asyncio.open_connection(
            *self._address, ssl=context, server_hostname="localhost"
        )
        seen = writer.get_extra_info("ssl_object").getpeercert(True)
        self.serial = x509.load_der_x509_certificate(seen).serial_number
        return reader, writer


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(head.decode())
    await reader.readexactly(3)


class Making:
    """An authority of the test's own, and what it signs."""

    Clock = Clock
    lifetimes = LIFETIMES

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.authority = new_authority(self.now, LIFETIMES)

    @property
    def trust(self) -> bytes:
        return self.authority.certificate.public_bytes(Encoding.PEM)

    def pair(self, issued: timedelta = timedelta(0), hosts: Iterable[str] = HOSTS) -> Pair:
        """A serving certificate that was issued so long from now."""
        return new_serving(self.authority, hosts, self.now + issued, LIFETIMES)

    @contextlib.asynccontextmanager
    async def asking(
        self, context: ssl.SSLContext, trust: Callable[[], bytes] | None = None
    ) -> AsyncIterator[Client]:
        """A server with a context, and a client that asks it all the time."""
        server = Server({}, dict)
        await server.start("127.0.0.1:0", context)
        client = Client(server.address, trust or (lambda: self.trust))
        task = asyncio.create_task(client.run())
        try:
            await client.more()
            yield client
            await client.more()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await server.close()


@contextlib.asynccontextmanager
async def running(part: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(part.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def making() -> Making:
    return Making()


@pytest.fixture(name="running")
def _running() -> Any:
    return running


class Mounted:
    """A Secret as kubelet mounts it: files are links into ``..data``, which is a link itself."""

    def __init__(self, root: Path) -> None:
        self.root, self._count = root, 0
        for name in ("tls.crt", "tls.key"):
            (root / name).symlink_to(Path("..data") / name)

    @property
    def files(self) -> tuple[Path, Path]:
        return self.root / "tls.crt", self.root / "tls.key"

    def put(self, chain: bytes, key: bytes) -> None:
        self._count += 1
        folder = self.root / f"..{self._count}"
        folder.mkdir()
        (folder / "tls.crt").write_bytes(chain)
        (folder / "tls.key").write_bytes(key)
        link = self.root / "..data_tmp"
        link.symlink_to(folder.name)
        link.rename(self.root / "..data")


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    root = tmp_path / "tls"
    root.mkdir()
    return Mounted(root)
