"""The lock under which a node binds one pod at a time (hami-nvidia-node.md 2.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import MUTEX_LOCK

__all__ = ["TIMEOUT", "NodeLock", "decode", "encode", "expired"]

TIMEOUT: Final = timedelta(minutes=5)
"""The usual time after which a lock is nobody's; ``HAMI_NODELOCK_EXPIRE`` may say otherwise."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:[0-5]\d)", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NodeLock:
    """Since when (with a zone), and for which pod; a lock of the oldest form names none."""

    at: datetime
    namespace: str = ""
    name: str = ""

    @property
    def names_pod(self) -> bool:
        """Whether it tells its pod."""
        return bool(self.name)

    def held_by(self, namespace: str, name: str) -> bool:
        """Whether it is this pod's, who may release it."""
        return self.names_pod and (self.namespace, self.name) == (namespace, name)


def decode(text: str, annotation: str = MUTEX_LOCK) -> NodeLock:
    """The lock that a node carries. Raises `AnnotationError`.

    Names that no pod can have are refused, because they become part of a request's path.
    """
    at, *pod = text.split(",", 3)
    if len(pod) not in (0, 2):
        raise AnnotationError(
            annotation, "neither a time nor time,namespace,name", "remove the annotation", text
        )
    lock = NodeLock(_time(at, annotation), *pod)
    if pod:
        _check_pod(lock, annotation)
    return lock


def encode(lock: NodeLock, annotation: str = MUTEX_LOCK) -> str:
    """The annotation's text, to the second. Raises `AnnotationError`."""
    offset = lock.at.utcoffset()
    if offset is None or offset % timedelta(minutes=1):
        raise AnnotationError(annotation, "a time without a zone of whole minutes", "use UTC")
    at = lock.at.replace(microsecond=0).isoformat()
    at = at.replace("+00:00", "Z")
    if not lock.namespace and not lock.name:
        return at
    _check_pod(lock, annotation)
    return f"{at},{lock.namespace},{lock.name}"


def expired(lock: NodeLock, now: datetime, timeout: timedelta = TIMEOUT) -> bool:
    """Whether the lock is older than `timeout`, or as far in the future: clocks that differ so much
    would make it hold for ever. `now` has a zone.
    """
    return abs(now - lock.at) > timeout


def _time(text: str, annotation: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise AnnotationError(
        annotation, "no time of the form 2006-01-02T15:04:05Z", "remove the annotation", text
    )


def _check_pod(lock: NodeLock, annotation: str) -> None:
    for what, text, longest, rule in (
        ("namespace", lock.namespace, 63, _LABEL),
        ("pod", lock.name, 253, _SUBDOMAIN),
    ):
        if len(text) > longest or not rule.fullmatch(text):
            raise AnnotationError(annotation, f"no name of a {what}", "remove the annotation", text)
