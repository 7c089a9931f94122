"""Takes back everything that an agent left on a node and in its Node object.

An agent that stops leaves what its successor needs: annotations, specifications, records. Only a
removal of the product takes them back; otherwise schedulers go on placing pods on a node that
nobody serves (hami-nvidia-node.md 2.7, 9.1).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath

from deviceplugin import vendorlocks
from deviceplugin.api.hami.keys import MUTEX_LOCK
from deviceplugin.apiserver.client import JSON_PATCH, MERGE_PATCH, Api, ApiError, Path
from deviceplugin.apiserver.events import Subject, event
from deviceplugin.apiserver.objects import Pod, node, pod
from deviceplugin.formersplits import SUFFIX
from deviceplugin.injection.render import CDI_VENDOR
from deviceplugin.injection.store import MANIFEST_FILE
from deviceplugin.kubelet.sockets import PREFIX, answers
from deviceplugin.leaving import PREFIX as LEAVING
from deviceplugin.leaving import Leaving
from deviceplugin.notices import Notice
from deviceplugin.scheduled import patches
from deviceplugin.scheduled.node import COMPONENT, LEDGER_FILE, owns
from deviceplugin.scheduled.registration import owned

__all__ = ["InUseError", "Item", "api_items", "check_idle", "file_items", "report"]


class InUseError(Exception):
    """An agent still runs here and would put everything back."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was, or could not be, removed; `problem` says why not."""

    kind: str
    name: str
    problem: str = ""


def check_idle(run_dir: FilePath) -> None:
    """Raises `InUseError` while an agent holds one of the locks of its vendors."""
    for vendor in vendorlocks.held(run_dir):
        raise InUseError(
            f"an agent that serves {vendor} runs on this node (lock "
            f"{vendorlocks.lock_file(run_dir, vendor)}): stop it first, or it would put back what "
            "is removed"
        )


def file_items(
    plugin_dir: FilePath, cdi_dir: FilePath, run_dir: FilePath, *, dry_run: bool
) -> Iterator[Item]:
    """Remove sockets, specifications and records; each as an item."""
    for kind, path in _files(plugin_dir, cdi_dir, run_dir):
        yield _removed(kind, path, dry_run=dry_run)


def api_items(api: Api, node_name: str, *, dry_run: bool) -> Iterator[Item]:
    """Remove the node's annotations and a lock that only our agent would have released; each as
    an item. Blocking.
    """
    path = Path.node(node_name)
    try:
        current = node(api.call("GET", path))
        ours = owned(current.annotations)
        if ours and not dry_run:
            api.call("PATCH", path, patches.removed(current.annotations, ours), MERGE_PATCH)
        yield from (Item("node annotation", key) for key in sorted(ours))
        lock = current.annotations.get(MUTEX_LOCK)
        if lock is None:
            return
        if (holder := _holder(lock, _pods(api, node_name))) is not None:
            if not dry_run:
                api.call("PATCH", path, patches.unlocked(lock), JSON_PATCH)
            yield Item("node lock", f"{MUTEX_LOCK} of pod {holder.key}")
    except ApiError as error:
        if not error.is_missing:
            yield Item("node annotation", node_name, str(error))
    except ValueError as error:
        yield Item("node annotation", node_name, str(error))


def report(api: Api, node_name: str, items: Sequence[Item]) -> str:
    """Tell on the Node what became of its things; answers why that was not possible, else empty.
    Blocking.
    """
    left = [item for item in items if item.problem]
    counts = Counter(item.kind for item in items if not item.problem)
    removed = ", ".join(f"{count} x {kind}" for kind, count in counts.items()) or "nothing"
    message = f"deviceplugin cleanup removed {removed}"
    if left:
        message += "; left: " + ", ".join(f"{i.kind} {i.name} ({i.problem})" for i in left)
    notice = Notice.CLEANUP_FAILED if left else Notice.CLEANED_UP
    about, now = Subject.node(node_name), datetime.now(UTC)
    body = event(
        about, notice, message, now, warning=notice.warning, component=COMPONENT, host=node_name
    )
    try:
        api.call("POST", about.events, body, "application/json")
    except ApiError as error:
        return str(error)
    return ""


def _holder(lock: str, pods: Iterable[Pod]) -> Pod | None:
    """The pod on this node whose lock it is. A lock for a pod that is not bound yet is the
    scheduler's.
    """
    return next((one for one in pods if owns(lock, one)), None)


def _pods(api: Api, node_name: str) -> Iterator[Pod]:
    query = {"fieldSelector": f"spec.nodeName={node_name}"}
    for item in api.call("GET", Path("/api/v1/pods", {}), query=query).get("items") or ():
        try:
            yield pod(item)
        except ValueError:
            continue


def _files(
    plugin_dir: FilePath, cdi_dir: FilePath, run_dir: FilePath
) -> Iterator[tuple[str, FilePath]]:
    for path in sorted(plugin_dir.glob(f"{PREFIX}*.sock")):
        if path.is_socket() and not answers(path):
            yield "socket", path
    names = set(_inventories(run_dir / MANIFEST_FILE))
    for path in sorted(cdi_dir.glob("*.json")):
        if path.stem in names:
            yield "CDI inventory", path
        elif path.name.startswith(f"{CDI_VENDOR}-"):
            yield "CDI specification", path
    mine = Leaving(run_dir).mark  # the agent's beside this hook, which takes it away itself
    for path in sorted(set(run_dir.glob("*")) - {mine}):
        named = path.name in (LEDGER_FILE, MANIFEST_FILE) or path.name.startswith(LEAVING)
        if named or path.name.endswith((".lock", SUFFIX)):
            yield "record", path


def _inventories(manifest: FilePath) -> list[str]:
    try:
        listed = json.loads(manifest.read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def _removed(kind: str, path: FilePath, *, dry_run: bool) -> Item:
    try:
        if not dry_run:
            path.unlink(missing_ok=True)
    except OSError as error:
        return Item(kind, str(path), error.strerror or str(error))
    return Item(kind, str(path))
