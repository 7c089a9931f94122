"""What the node writes to pods and nodes, and when it dares. Pure.

Every write names what it expects to find, so that it fails instead of undoing somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deviceplugin.api.hami.keys import BIND_PHASE, MUTEX_LOCK
from deviceplugin.apiserver.objects import Pod

SUCCESS, FAILED = "success", "failed"

Operations = list[dict[str, Any]]


def served(pod: Pod, emptied: Mapping[str, str], *, last: bool) -> Operations:
    """The pod's annotations after containers were served: `emptied` are the new values of its
    to-allocate annotations. Refused by the API server when it is another pod, or when somebody
    else served a container meanwhile.
    """
    operations = [_test("/metadata/uid", pod.uid)]
    for key, value in emptied.items():
        operations.append(_test(_annotation(key), pod.annotations[key]))
        operations.append(_add(_annotation(key), value))
    if last:
        operations.append(_add(_annotation(BIND_PHASE), SUCCESS))
    return operations


def failed(pod: Pod) -> Operations:
    """The pod could not be served; schedulers then drop their reservation."""
    return [_test("/metadata/uid", pod.uid), _add(_annotation(BIND_PHASE), FAILED)]


def unlocked(value: str) -> Operations:
    """The node without the lock that has exactly this value."""
    path = _annotation(MUTEX_LOCK)
    return [_test(path, value), {"op": "remove", "path": path}]


def removed(annotations: Mapping[str, str], keys: Iterable[str]) -> dict[str, Any]:
    """A merge patch that removes those of the keys that are there."""
    return {"metadata": {"annotations": {key: None for key in keys if key in annotations}}}


def _annotation(key: str) -> str:
    return "/metadata/annotations/" + key.replace("~", "~0").replace("/", "~1")


def _test(path: str, value: str) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: str) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}
