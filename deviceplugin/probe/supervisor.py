"""The agent's side of a probe: start it, read it, kill it at its deadline, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.probe import stream
from deviceplugin.vendor import DriverError, HealthEvent, Snapshot, Vendor, VendorSettings


@dataclass(frozen=True, slots=True)
class SnapshotSeen:
    """The driver's answer; also sent when nothing changed, because that is evidence of health."""

    snapshot: Snapshot
    changed: bool


@dataclass(frozen=True, slots=True)
class HealthSeen:
    """An event between two snapshots."""

    event: HealthEvent


@dataclass(frozen=True, slots=True)
class DriverAbsent:
    """There is no driver of this vendor on the node: a state, not a fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """No answer this time. `cause` is a fixed word for metrics: error, deadline, crash, garbage."""

    cause: str
    reason: str


ProbeEvent = SnapshotSeen | HealthSeen | DriverAbsent | ProbeFailed
Handler = Callable[[ProbeEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a probe may take and how it is retried, all in seconds."""

    interval: float = 30.0
    """Between two discoveries."""
    deadline: float = 15.0
    """For one discovery, counted from its start; then the process is killed."""
    backoff_first: float = 1.0
    backoff_most: float = 60.0


class Probe:
    """One vendor's probe. `run` never returns by itself and never raises for what a probe does."""

    def __init__(
        self,
        vendor: Vendor,
        settings: VendorSettings,
        timing: Timing,
        handle: Handler,
        *,
        python: str = sys.executable,
    ) -> None:
        self._vendor, self._settings, self._timing = vendor, settings, timing
        self._handle, self._python = handle, python
        self._process: asyncio.subprocess.Process | None = None
        self._answers: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._sequence = 0
        self._snapshot: Snapshot | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process id of the running child, for people and fault injection."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep a child running until cancelled; then it is killed and reaped."""
        delay = self._timing.backoff_first
        while True:
            healthy = False
            async with self._child() as process:
                async for event in self._events(process):
                    healthy = healthy or isinstance(event, SnapshotSeen)
                    await self._handle(event)
            delay = self._timing.backoff_first if healthy else delay
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._timing.backoff_most)
            self.restarts += 1

    async def discover(self) -> None:
        """Ask for a discovery now instead of at the next interval."""
        await self._send({"type": "discover"})

    async def command(
        self, kind: str, request: Mapping[str, Any], limit: float
    ) -> Mapping[str, Any]:
        """``partition`` or ``release`` in the probe, within `limit` seconds.

        Raises `DriverError` with what the vendor says, or when no answer comes in time.
        """
        self._sequence += 1
        identity = self._sequence
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[identity] = answer
        try:
            await self._send({"type": kind, "id": identity, "request": dict(request)})
            async with asyncio.timeout(limit):
                return await answer
        except TimeoutError:
            raise DriverError(f"{kind} got no answer within {limit:g} s") from None
        finally:
            self._answers.pop(identity, None)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise DriverError(f"the {self._vendor.name} probe is not running")
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(stream.encode(message))
            await self._process.stdin.drain()

    @contextlib.asynccontextmanager
    async def _child(self) -> AsyncIterator[asyncio.subprocess.Process]:
        # -P keeps the working directory off sys.path: a folder called api/ there is not ours.
        process = await asyncio.create_subprocess_exec(
            self._python,
            "-P",
            "-m",
            "deviceplugin.probe",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=stream.MAX_LINE_BYTES,
            env=self._environment(),
        )
        self._process = process
        try:
            yield process
        finally:
            self._process = None
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(DriverError("the probe ended before it answered"))
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())

    def _environment(self) -> dict[str, str]:
        """Ours, with the vendor's libraries in front; set before exec, because the loader reads it
        only then.
        """
        environment = dict(os.environ)
        root = self._settings.host_root.rstrip("/")
        paths = [root + path for path in self._vendor.library_path]
        if environment.get("LD_LIBRARY_PATH"):
            paths.append(environment["LD_LIBRARY_PATH"])
        if paths:
            environment["LD_LIBRARY_PATH"] = ":".join(paths)
        return environment

    async def _events(self, process: asyncio.subprocess.Process) -> AsyncIterator[ProbeEvent]:
        """What one child says until it ends, is late, or speaks garbage."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._snapshot = None
        tail: deque[str] = deque(maxlen=5)
        stderr = asyncio.create_task(_keep_tail(process.stderr, tail))
        try:
            await self._send(
                {
                    "type": "settings",
                    "node": self._vendor.node,
                    "settings": stream.settings_to_dict(self._settings),
                    "interval": self._timing.interval,
                }
            )
            busy, loop = True, asyncio.get_running_loop()
            started = loop.time()
            while True:
                allowed = self._timing.deadline + (0 if busy else self._timing.interval)
                try:
                    async with asyncio.timeout_at(started + allowed):
                        line = await process.stdout.readline()
                except TimeoutError:
                    reason = f"discovery gave no answer within {self._timing.deadline:g} s"
                    yield ProbeFailed("deadline", f"{reason}; the probe was killed")
                    return
                if not line:
                    break
                message = stream.decode(line)
                kind = message["type"]
                if kind == "health":
                    yield HealthSeen(stream.health_from_dict(message))
                    continue
                if kind == "watch-ended":
                    yield ProbeFailed("error", str(message.get("reason")))
                    return
                if kind == "answer":
                    self._resolve(message)
                    continue
                busy, started = kind == "discovering", loop.time()
                if (event := self._discovered(message)) is not None:
                    yield event
            await stderr
            yield ProbeFailed("crash", _ending(await process.wait(), tail))
        except (stream.StreamError, ValueError) as error:
            yield ProbeFailed("garbage", f"the probe was killed for what it said: {error}")
        finally:
            stderr.cancel()

    def _discovered(self, message: Mapping[str, Any]) -> ProbeEvent | None:
        reason = str(message.get("reason", ""))
        match message["type"]:
            case "discovering":
                return None
            case "snapshot":
                self._snapshot = stream.snapshot_from_dict(message.get("snapshot"))
                return SnapshotSeen(self._snapshot, changed=True)
            case "unchanged" if self._snapshot is not None:
                return SnapshotSeen(self._snapshot, changed=False)
            case "absent":
                return DriverAbsent(reason)
            case "failed":
                return ProbeFailed("error", reason)
            case other:
                raise stream.StreamError(f"an unexpected message {other!r}")

    def _resolve(self, message: Mapping[str, Any]) -> None:
        answer = self._answers.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(DriverError(str(message["error"])))
        else:
            answer.set_result(message.get("result") or {})


async def _keep_tail(reader: asyncio.StreamReader, tail: deque[str]) -> None:
    """Read what a driver library prints, so that it never blocks; keep the end of it."""
    while chunk := await reader.read(65536):
        tail.extend(chunk.decode(errors="replace").strip().splitlines()[-5:])


def _ending(code: int, tail: deque[str]) -> str:
    """How the process ended, for people."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    last = f": {tail[-1]}" if tail else ""
    return f"the probe {how}{last}"
