"""The objects, their versions and what happened to them. Thread-safe; refuses as a real server."""

from __future__ import annotations

import copy
import re
import threading
import uuid
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deviceplugin.testing.apiserver.resources import RESOURCES, Resource
from deviceplugin.testing.apiserver.status import StatusError, conflict, invalid, not_found

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace, name."""

MAX_ANNOTATIONS = 256 * 1024
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Event:
    """One change: its version, ``ADDED``, ``MODIFIED`` or ``DELETED``, and the object before and
    after it.
    """

    version: int
    type: str
    plural: str
    before: Object | None
    after: Object


class Store:
    """All collections of one server."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        unique: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        """`unique` makes the uids of what is created."""
        self.changed = threading.Condition()
        self._now, self._unique = now, unique
        self._objects: dict[Key, Object] = {}
        """None of them is ever changed: another takes its place."""
        self._keys: defaultdict[str, list[Key]] = defaultdict(list)
        """By plural, in order."""
        self._events: list[Event] = []
        self._version = 1
        self._oldest = 1
        """The version from which a watch can still go on."""

    @property
    def version(self) -> int:
        """Of the last change."""
        return self._version

    def compact(self) -> None:
        """Forget all changes so far: watches that go on from them are refused with 410."""
        with self.changed:
            self._events.clear()
            self._oldest = self._version

    def all(self, resource: Resource, namespace: str = "") -> tuple[list[Object], int]:
        """The objects of a collection by name, and the version of that moment."""
        found, version = self.shown(resource, namespace)
        return copy.deepcopy(found), version

    def shown(self, resource: Resource, namespace: str = "") -> tuple[list[Object], int]:
        """The same for who only looks: these are the stored objects themselves."""
        with self.changed:
            keys = self._keys.get(resource.plural, ())
            found = [self._objects[key] for key in keys if namespace in ("", key[1])]
            return found, self._version

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises `StatusError`."""
        with self.changed:
            return copy.deepcopy(self._one(resource, namespace, name))

    def create(self, resource: Resource, namespace: str, item: Object) -> Object:
        """Store a new object; answers it as stored. Raises `StatusError`."""
        with self.changed:
            item = copy.deepcopy(item)
            metadata = item.setdefault("metadata", {})
            if not metadata.get("name") and metadata.get("generateName"):
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            name = metadata.get("name") or ""
            key = (resource.plural, namespace, name)
            if key in self._objects:
                raise StatusError(
                    409, "AlreadyExists", f'{resource.plural} "{name}" already exists', name=name
                )
            if resource.namespaced:
                metadata["namespace"] = namespace
            metadata.pop("resourceVersion", None)
            metadata["uid"] = str(self._unique())
            metadata["creationTimestamp"] = self._stamp()
            item["apiVersion"], item["kind"] = resource.api_version, resource.kind
            if resource.kind == "Pod":
                item.setdefault("status", {}).setdefault("phase", "Pending")
            validate(resource, item)
            return self._put("ADDED", resource, key, None, item)

    def change(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        edit: Callable[[Object], Object],
        subresource: str = "",
    ) -> Object:
        """Replace an object by what `edit` makes of it; answers it as stored.

        Everything but the subresource named stays, a version that the new object states must be
        the current one, and a change that changes nothing makes no event. Raises `StatusError`
        and what `edit` raises.
        """
        with self.changed:
            before = self._one(resource, namespace, name)
            after = edit(copy.deepcopy(before))
            if not isinstance(after, dict) or not isinstance(after.get("metadata"), dict):
                raise invalid(resource.plural, name, "metadata: Required value")
            stated = after["metadata"].get("resourceVersion")
            if stated not in (None, "", before["metadata"]["resourceVersion"]):
                raise conflict(resource.plural, name)
            self._keep(resource, before, after, subresource)
            validate(resource, after)
            if after == before:
                return copy.deepcopy(before)
            key = (resource.plural, namespace, name)
            metadata = after["metadata"]
            if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
                return self._drop(resource, key, before)
            return self._put("MODIFIED", resource, key, before, after)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        preconditions: Mapping[str, Any] | None = None,
        grace_seconds: int | None = None,
    ) -> Object:
        """Remove an object, or mark it where finalizers or a running pod keep it. Raises
        `StatusError`.
        """
        with self.changed:
            before = self._one(resource, namespace, name)
            for field, wanted in (preconditions or {}).items():
                if wanted is not None and before["metadata"].get(field) != wanted:
                    raise conflict(resource.plural, name)
            running = (
                resource.kind == "Pod"
                and before["spec"].get("nodeName")
                and before["status"].get("phase") not in ("Succeeded", "Failed")
                and grace_seconds != 0
            )
            if not running and not before["metadata"].get("finalizers"):
                return self._drop(resource, (resource.plural, namespace, name), before)
            if before["metadata"].get("deletionTimestamp"):
                return copy.deepcopy(before)
            after = copy.deepcopy(before)
            after["metadata"]["deletionTimestamp"] = self._stamp()
            after["metadata"]["deletionGracePeriodSeconds"] = (
                30 if grace_seconds is None else grace_seconds
            )
            return self._put(
                "MODIFIED", resource, (resource.plural, namespace, name), before, after
            )

    def events(self, resource: Resource, namespace: str, after: int) -> list[Event]:
        """What happened in a collection since a version. Raises `StatusError` with 410 when that
        was too long ago. `changed` must be held.
        """
        if after < self._oldest:
            raise StatusError(410, "Expired", f"too old resource version: {after} ({self._oldest})")
        first = bisect_right(self._events, after, key=lambda event: event.version)
        return [
            event
            for event in self._events[first:]
            if event.plural == resource.plural
            and namespace in ("", event.after["metadata"].get("namespace", ""))
        ]

    def _keep(self, resource: Resource, before: Object, after: Object, subresource: str) -> None:
        """What this request may not change is as it was. Raises `StatusError`."""
        name = before["metadata"]["name"]
        for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"):
            old, new = before["metadata"].get(field), after["metadata"].get(field)
            if new is None and old is not None:
                after["metadata"][field] = old
            elif new != old:
                raise invalid(resource.plural, name, f"metadata.{field}: field is immutable")
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        after["apiVersion"], after["kind"] = before["apiVersion"], before["kind"]
        if subresource == "binding":
            return
        if subresource:
            for key in {*before, *after} - {subresource, "metadata"}:
                _restore(before, after, key)
            return
        if "status" in resource.subresources:
            _restore(before, after, "status")
        for key in resource.frozen:
            if not _only_shrunk(before.get(key), after.get(key), resource.shrinking):
                raise invalid(resource.plural, name, f"{key}: Forbidden: updates may not change it")

    def _one(self, resource: Resource, namespace: str, name: str) -> Object:
        found = self._objects.get((resource.plural, namespace, name))
        if found is None:
            raise not_found(resource.plural, name)
        return found

    def _put(
        self, type_: str, resource: Resource, key: Key, before: Object | None, after: Object
    ) -> Object:
        self._version += 1
        after["metadata"]["resourceVersion"] = str(self._version)
        if key not in self._objects:
            insort(self._keys[resource.plural], key)
        self._objects[key] = after
        self._events.append(Event(self._version, type_, resource.plural, before, after))
        self.changed.notify_all()
        return copy.deepcopy(after)

    def _drop(self, resource: Resource, key: Key, before: Object) -> Object:
        self._version += 1
        del self._objects[key]
        keys = self._keys[resource.plural]
        del keys[bisect_left(keys, key)]
        gone = copy.deepcopy(before)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._events.append(Event(self._version, "DELETED", resource.plural, before, gone))
        self.changed.notify_all()
        return copy.deepcopy(gone)

    def _stamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _only_shrunk(before: Any, after: Any, shrinking: Iterable[str]) -> bool:
    """Whether two fields are the same but for lists that lost members."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return bool(before == after)
    lists = [(before.get(name) or [], after.get(name) or []) for name in shrinking]
    if any(member not in old for old, new in lists for member in new):
        return False
    rest = [{k: v for k, v in field.items() if k not in shrinking} for field in (before, after)]
    return rest[0] == rest[1]


def _restore(before: Object, after: Object, key: str) -> None:
    if key in before:
        after[key] = copy.deepcopy(before[key])
    else:
        after.pop(key, None)


def validate(resource: Resource, item: Object) -> None:
    """The rules that hold for every object. Raises `StatusError`."""
    metadata = item["metadata"]
    name = metadata.get("name") or ""
    if not _NAME.fullmatch(name):
        raise invalid(resource.plural, name, f'metadata.name: Invalid value: "{name}"')
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    for field, entries in (("annotations", annotations), ("labels", labels)):
        if not isinstance(entries, dict):
            raise StatusError(400, "BadRequest", f"metadata.{field}: expects a map")
        for key, value in entries.items():
            if not isinstance(value, str):
                raise StatusError(
                    400, "BadRequest", f"json: cannot unmarshal into metadata.{field}.{key}: string"
                )
            if not _QUALIFIED.fullmatch(key if field == "labels" else key.lower()):
                raise invalid(resource.plural, name, f'metadata.{field}: Invalid value: "{key}"')
            if field == "labels" and not _VALUE.fullmatch(value):
                raise invalid(resource.plural, name, f'metadata.labels: Invalid value: "{value}"')
    size = sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items())
    if size > MAX_ANNOTATIONS:
        raise invalid(
            resource.plural,
            name,
            f"metadata.annotations: Too long: may not be more than {MAX_ANNOTATIONS} bytes",
        )


def check_texts(item: Object) -> None:
    """Raises `TypeError` for annotations and labels that are no texts: a patch that makes them is
    refused before the object is looked at.
    """
    metadata = item.get("metadata") or {}
    for field in ("annotations", "labels"):
        for key, value in (metadata.get(field) or {}).items():
            if not isinstance(value, str):
                raise TypeError(f"cannot unmarshal into metadata.{field}.{key}: string")


def resource_of(plural: str) -> Resource:
    """The resource of that plural name. Raises `KeyError`."""
    return next(_named(plural))


def _named(plural: str) -> Iterator[Resource]:
    for resource in RESOURCES:
        if resource.plural == plural:
            yield resource
            return
    raise KeyError(plural)
