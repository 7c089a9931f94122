"""The agent's side of a probe: start it, read it, kill it at its deadline, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deviceplugin.probe import stream
from deviceplugin.vendor import (
    DriverError,
    HealthEvent,
    Snapshot,
    Usage,
    Vendor,
    VendorSettings,
)


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
class UsageSeen:
    """How busy devices are; says nothing of their health."""

    usages: tuple[Usage, ...]


@dataclass(frozen=True, slots=True)
class UsageUnknown:
    """A reading failed, and nothing else."""

    reason: str


@dataclass(frozen=True, slots=True)
class DriverAbsent:
    """There is no driver of this vendor on the node: a state, not a fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """No answer this time. `cause` is a fixed word for metrics: error, deadline, crash, garbage."""

    cause: str
    reason: str


ProbeEvent = SnapshotSeen | HealthSeen | UsageSeen | UsageUnknown | DriverAbsent | ProbeFailed
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
    stop: float = 5.0
    """For a killed process to be gone when the agent stops."""
    usage: float = 0.0
    """Between two readings of how busy devices are; 0: none are taken."""


REAP_POLL_SECONDS = 0.02
TAIL_SECONDS = 0.5
MAX_TAIL = 500
"""Characters of a driver library's last words; they go into logs and pod events."""


@dataclass(slots=True)
class _Command:
    """A command that waits for its answer until `until`, in seconds of the loop's clock."""

    answer: asyncio.Future[Mapping[str, Any]]
    until: float


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
        self._commands: dict[int, _Command] = {}
        self._sequence = 0
        self._due = 0.0
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
            delay = self._timing.backoff_first if await self._once() else delay
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._timing.backoff_most)
            self.restarts += 1

    async def _once(self) -> bool:
        """One child's life; whether it ever gave a snapshot."""
        healthy = False
        try:
            process = await self._start()
        except OSError as error:
            await self._handle(ProbeFailed("crash", f"the probe cannot be started: {error}"))
            return False
        self._process = process
        try:
            async with contextlib.aclosing(self._events(process)) as events:
                async for event in events:
                    healthy = healthy or isinstance(event, SnapshotSeen)
                    await self._handle(event)
        except asyncio.CancelledError:
            self._kill(process)
            await asyncio.shield(_reaped(process, self._timing.stop))
            raise
        finally:
            self._kill(process)
        # A call that hangs in the kernel outlives even SIGKILL; another child would hang there too.
        try:
            while not await _reaped(process, self._timing.deadline):
                reason = f"the probe (pid {process.pid}) hangs in the kernel and cannot be killed"
                await self._handle(ProbeFailed("deadline", f"{reason}: reset the device or reboot"))
        except asyncio.CancelledError:
            await asyncio.shield(_reaped(process, self._timing.stop))
            raise
        return healthy

    async def discover(self) -> None:
        """Ask for a discovery now instead of at the next interval."""
        await self._send({"type": "discover"})

    async def command(
        self, kind: str, request: Mapping[str, Any], limit: float
    ) -> Mapping[str, Any]:
        """``partition`` or ``release`` in the probe, within `limit` seconds.

        The probe is not killed for being late with a discovery meanwhile. Raises `DriverError`
        with what the vendor says, or when no answer comes in time.
        """
        self._sequence += 1
        identity = self._sequence
        loop = asyncio.get_running_loop()
        command = _Command(loop.create_future(), loop.time() + limit)
        self._commands[identity] = command
        try:
            async with asyncio.timeout_at(command.until):
                await self._send({"type": kind, "id": identity, "request": dict(request)})
                return await command.answer
        except TimeoutError:
            raise DriverError(f"{kind} got no answer within {limit:g} s") from None
        finally:
            self._commands.pop(identity, None)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise DriverError(f"the {self._vendor.name} probe is not running")
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(stream.encode(message))
            await self._process.stdin.drain()

    async def _start(self) -> asyncio.subprocess.Process:
        # -P keeps the working directory off sys.path: a folder called api/ there is not ours.
        return await asyncio.create_subprocess_exec(
            self._python,
            "-P",
            "-m",
            "deviceplugin.probe",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=stream.MAX_LINE_BYTES,
            env=self._environment(),
            start_new_session=True,  # what it starts dies with it
        )

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        """End the child and what it started, and everybody's wait for its answers."""
        self._process = None
        for command in self._commands.values():
            if not command.answer.done():
                command.answer.set_exception(DriverError("the probe ended before it answered"))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

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

    async def _events(
        self, process: asyncio.subprocess.Process
    ) -> AsyncGenerator[ProbeEvent, None]:
        """What one child says until it ends, is late, or speaks garbage."""
        assert process.stdout is not None
        assert process.stderr is not None
        self._snapshot = None
        tail: deque[str] = deque(maxlen=5)
        stderr = asyncio.create_task(_keep_tail(process.stderr, tail))
        loop, timing = asyncio.get_running_loop(), self._timing
        self._due, busy = loop.time() + timing.deadline, True
        try:
            async with asyncio.timeout_at(self._due):
                await self._send(
                    {
                        "type": "settings",
                        "node": self._vendor.node,
                        "settings": stream.settings_to_dict(self._settings),
                        "interval": timing.interval,
                        "usage": timing.usage,
                    }
                )
            # A line without its end is what a killed process leaves.
            while (line := await self._line(process.stdout)).endswith(b"\n"):
                message = stream.decode(line)
                kind = message["type"]
                if kind == "health":
                    yield HealthSeen(stream.health_from_dict(message))
                    continue
                if kind == "usage":
                    yield _usage(message)
                    continue
                if kind == "watch-ended":
                    yield ProbeFailed("error", str(message.get("reason")))
                    return
                if kind == "answer":
                    self._resolve(message)
                else:
                    busy = kind == "discovering"
                    if (event := self._discovered(message)) is not None:
                        yield event
                self._due = loop.time() + timing.deadline + (0 if busy else timing.interval)
            # Whatever the library started may hold the other end for ever.
            await asyncio.wait([stderr], timeout=TAIL_SECONDS)
            await _reaped(process, TAIL_SECONDS)
            yield ProbeFailed("crash", _ending(process.returncode, tail))
        except TimeoutError:
            reason = f"discovery gave no answer within {timing.deadline:g} s"
            yield ProbeFailed("deadline", f"{reason}; the probe was killed")
        except (stream.StreamError, ValueError) as error:
            yield ProbeFailed("garbage", f"the probe was killed for what it said: {error}")
        finally:
            stderr.cancel()

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line. Raises `TimeoutError` when the probe is late, and not while it has a
        command to carry out; `ValueError` when the line has no end.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._latest()):
                    return await reader.readline()
            except TimeoutError:
                if loop.time() >= self._latest():
                    raise

    def _latest(self) -> float:
        """When the probe is late: a command delays the discovery that is due meanwhile."""
        commands = (command.until + self._timing.deadline for command in self._commands.values())
        return max((self._due, *commands))

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
        identity, result = message.get("id"), message.get("result", {})
        command = self._commands.get(identity) if isinstance(identity, int) else None
        if command is None or command.answer.done():
            return
        if "error" in message:
            command.answer.set_exception(DriverError(str(message["error"])))
        elif isinstance(result, dict):
            command.answer.set_result(result)
        else:
            raise stream.StreamError(f"an answer that is no object: {result!r:.60}")


def _usage(message: Mapping[str, Any]) -> UsageSeen | UsageUnknown:
    """What a line says of use. One that makes no sense is no reason to end the probe."""
    if "error" in message:
        return UsageUnknown(str(message["error"])[:MAX_TAIL])
    try:
        return UsageSeen(stream.usages_from_dict(message))
    except stream.StreamError as error:
        return UsageUnknown(str(error))


async def _keep_tail(reader: asyncio.StreamReader, tail: deque[str]) -> None:
    """Read what a driver library prints, so that it never blocks; keep the end of it."""
    while chunk := await reader.read(65536):
        tail.extend(chunk.decode(errors="replace").strip().splitlines()[-5:])


async def _reaped(process: asyncio.subprocess.Process, limit: float) -> bool:
    """Whether the process ended within `limit` seconds; its pipes are closed then.

    `Process.wait` would wait for the ends of the pipes too, which a grandchild may hold.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    while process.returncode is None:
        if loop.time() >= until:
            return False
        await asyncio.sleep(REAP_POLL_SECONDS)
    process._transport.close()  # type: ignore[attr-defined]
    return True


def _ending(code: int | None, tail: deque[str]) -> str:
    """How the process ended, for people."""
    if code is None:
        how = "closed its output"
    elif code < 0:
        how = f"was killed by signal {-code}"
    else:
        how = f"ended with status {code}"
    last = f": {tail[-1][:MAX_TAIL]}" if tail else ""
    return f"the probe {how}{last}"
