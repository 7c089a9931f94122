"""A cluster behind an API server, in a process of its own: what it costs is not the scheduler's.

Reads the cluster from the file named on the command line, says on one line of its output where it
listens, and answers every line of its input with the calls since the last one. On every node an
agent takes over at once what is bound there, as long as this runs.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from dataclasses import astuple
from pathlib import Path
from typing import Any

from deviceplugin.api.hami import nodelock
from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK, VGPU_NODE
from deviceplugin.api.hami.pod import BindPhase
from deviceplugin.testing.apiserver import ApiServer
from deviceplugin.testing.apiserver.resources import RESOURCES
from deviceplugin.testing.apiserver.status import StatusError

PODS = next(resource for resource in RESOURCES if resource.plural == "pods")


class Agents:
    """Those of all nodes, each as fast as an agent can be: a pod's devices are handed over in the
    instant in which it is bound, and the node is free for the next.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def run(self) -> None:
        """Without end."""
        store = self._server.store
        seen = store.version
        while True:
            with store.changed:
                events = store.events(PODS, "", seen)
                if not events:
                    store.changed.wait()
                    continue
            seen = events[-1].version
            for event in events:
                if event.type == "MODIFIED":
                    self._look(event.after)

    def _look(self, pod: dict[str, Any]) -> None:
        metadata, node = pod["metadata"], pod["spec"].get("nodeName")
        annotations = metadata.get("annotations") or {}
        if not node or annotations.get(BIND_PHASE) != BindPhase.ALLOCATING:
            return
        if annotations.get(VGPU_NODE) != node:
            raise AssertionError(f"{metadata['name']} was placed elsewhere than bound")
        done = {"metadata": {"annotations": {BIND_PHASE: str(BindPhase.SUCCESS)}}}
        try:
            self._server.patch("pods", metadata["name"], done, metadata["namespace"])
        except StatusError:
            return  # deleted meanwhile
        locks = self._server.get("nodes", node)["metadata"].get("annotations") or {}
        if (text := locks.get(MUTEX_LOCK)) is None:
            return
        if nodelock.decode(text, MUTEX_LOCK).held_by(metadata["namespace"], metadata["name"]):
            self._server.patch("nodes", node, {"metadata": {"annotations": {MUTEX_LOCK: None}}})


def main() -> None:
    server = ApiServer()
    made = json.loads(Path(sys.argv[1]).read_text())
    for plural in ("nodes", "pods"):
        for item in made.pop(plural):
            server.create(plural, item)
    server.store.compact()
    gc.collect()
    gc.freeze()
    threading.Thread(target=Agents(server).run, daemon=True).start()
    server.start()
    print(json.dumps({"url": server.url}), flush=True)
    for _ in sys.stdin:
        calls = server.calls[:]
        del server.calls[: len(calls)]
        print(json.dumps([astuple(call) for call in calls]), flush=True)


if __name__ == "__main__":
    main()
