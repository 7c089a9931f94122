"""The probe process: loads one vendor's node half and reports what its driver says.

Commands come in on stdin, reports go out on the file that was stdout; the real stdout is pointed
at stderr before anything is loaded, because driver libraries print. The end of stdin is the end
of the agent, and of this process, however deep in a driver call it hangs.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from deviceplugin.probe import stream
from deviceplugin.registry import load_node
from deviceplugin.vendor import (
    DriverError,
    HealthWatcher,
    NodeBackend,
    Partitioner,
    Snapshot,
    Tidier,
    UsageReader,
)


class Child:
    """Answers commands one after the other; health events and readings of how busy devices are
    come from threads beside. `usage` is the time between two readings, in seconds; 0: none.
    """

    def __init__(self, out: BinaryIO, usage: float = 0.0) -> None:
        self._out = out
        self._usage = usage
        self._lock = threading.Lock()
        self._last: dict[str, Any] | None = None
        self._newest: Snapshot | None = None
        self._watching = False

    def say(self, kind: str, **content: Any) -> None:
        """One line to the agent, whole even when threads write at the same time."""
        line = stream.encode({"type": kind, **content})
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def serve(self, backend: NodeBackend, commands: queue.Queue[bytes], interval: float) -> None:
        """Discover now and every `interval` seconds, however many commands come between."""
        due = 0.0
        while True:
            if time.monotonic() >= due:
                self.discover(backend)
                due = time.monotonic() + interval
            try:
                command = stream.decode(commands.get(timeout=max(0.0, due - time.monotonic())))
            except queue.Empty:
                continue
            if command["type"] == "discover":
                due = 0.0
            else:
                self.partition(backend, command)

    def discover(self, backend: NodeBackend) -> None:
        """One discovery, reported as snapshot, unchanged, absent or failed."""
        self.say("discovering")
        try:
            snapshot = backend.discover()
            content = stream.snapshot_to_dict(snapshot)
            stream.encode(content)
        except DriverError as error:
            self._last = None
            self.say("absent" if error.absent else "failed", reason=str(error))
            return
        except Exception as error:
            self._last = None
            self.say("failed", reason=f"discovery raised {type(error).__name__}: {error}")
            return
        if content == self._last:
            self.say("unchanged")
        else:
            self._last = content
            self.say("snapshot", snapshot=content)
        first, self._newest = self._newest is None, snapshot
        self._watch(backend, snapshot)
        if first and self._usage:
            threading.Thread(
                target=self._report_usage, args=(backend,), name="usage", daemon=True
            ).start()

    def usage(self, backend: NodeBackend) -> None:
        """One reading of how busy the devices of the newest snapshot are, or why there is none."""
        try:
            if not isinstance(backend, UsageReader):
                raise DriverError("this vendor does not say how busy its devices are")
            readings = backend.usage(self._newest or Snapshot())
            content = [stream.usage_to_dict(reading) for reading in readings]
            stream.encode({"devices": content})
        except (Exception, SystemExit) as error:
            self.say("usage", error=f"{error}" or type(error).__name__)
        else:
            self.say("usage", devices=content)

    def _report_usage(self, backend: NodeBackend) -> None:
        """A thread of its own: a reading that hangs keeps no discovery waiting."""
        while True:
            self.usage(backend)
            time.sleep(self._usage)

    def partition(self, backend: NodeBackend, command: Mapping[str, Any]) -> None:
        """Carry out ``partition``, ``release`` or ``tidy`` and answer under the command's id."""
        identity = command.get("id")
        try:
            if command["type"] == "tidy" and isinstance(backend, Tidier):
                result = {"removed": list(backend.tidy(command["request"]["held"]))}
            elif not isinstance(backend, Partitioner):
                raise DriverError("this vendor makes no partitions on demand")
            elif command["type"] == "partition":
                result = dict(backend.partition(command["request"]))
            elif command["type"] == "release":
                backend.release(command["request"])
                result = {}
            else:
                raise DriverError(f"unknown command {command['type']!r}")
            stream.encode(result)
        except Exception as error:
            self.say("answer", id=identity, error=f"{error}" or type(error).__name__)
        else:
            self.say("answer", id=identity, result=result)

    def _watch(self, backend: NodeBackend, snapshot: Snapshot) -> None:
        """Start the health thread with the first snapshot; it lives as long as the process."""
        if self._watching or not isinstance(backend, HealthWatcher):
            return
        self._watching = True

        def run() -> None:
            try:
                for event in backend.watch_health(snapshot):
                    self.say("health", uuid=event.uuid, healthy=event.healthy, reason=event.reason)
            except Exception as error:
                reason = f"health events ended: {type(error).__name__}: {error}"
                self.say("watch-ended", reason=reason)

        threading.Thread(target=run, name="health", daemon=True).start()


def main() -> int:
    """Run until stdin ends. The first line on stdin is the ``settings`` message."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    first = sys.stdin.buffer.readline()
    if not first:
        return 0
    start = stream.decode(first)
    child = Child(out, float(start.get("usage", 0)))
    child.say("discovering")
    commands: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for line in sys.stdin.buffer:
            commands.put(line)
        os._exit(0)

    threading.Thread(target=read, name="commands", daemon=True).start()
    try:
        backend = load_node(start["node"], stream.settings_from_dict(start["settings"]))
    except (Exception, SystemExit) as error:
        child.say("failed", reason=f"{start['node']} cannot be loaded: {error!r}")
        os._exit(1)  # the thread that reads would not let the interpreter end in peace
    child.serve(backend, commands, float(start["interval"]))
    return 0
