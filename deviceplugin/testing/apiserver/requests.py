"""What a request does to the stored objects, and what it is answered with; no HTTP here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from deviceplugin.testing.apiserver import patching
from deviceplugin.testing.apiserver.admission import Change, admitted
from deviceplugin.testing.apiserver.faults import Faults
from deviceplugin.testing.apiserver.resources import RESOURCES, Resource
from deviceplugin.testing.apiserver.selectors import Test, by_fields, by_labels
from deviceplugin.testing.apiserver.status import StatusError, bad_request, conflict
from deviceplugin.testing.apiserver.store import Object, Store, check_texts, resource_of

__all__ = ["Requests", "Target", "chosen_by", "target_of"]


_SELECTORS = frozenset({"labelSelector", "fieldSelector"})


@dataclass(frozen=True, slots=True)
class Target:
    """What a path means: a collection, or one object in it or below it."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of `user` with bodies of `content_type`."""

    store: Store
    faults: Faults
    content_type: str
    user: str

    def serve(
        self, verb: str, target: Target, query: Mapping[str, str], body: Any
    ) -> tuple[int, Object]:
        """The status and the answer, which is not to be changed. Raises `StatusError`."""
        store, resource = self.store, target.resource
        namespace, name = target.namespace, target.name
        if verb in ("update", "patch") and f"{resource.plural}/{name}" in self.faults.conflicts:
            raise conflict(resource.plural, name)
        match verb:
            case "list":
                return 200, self._list(target, query)
            case "get":
                return 200, store.get(resource, namespace, name)
            case "create" if target.subresource == "binding":
                return 201, self._bind(target, body)
            case "create" if not name and (namespace or not resource.namespaced):
                return 201, self._create(target, query, _object(body))
            case "update":
                return 200, self._change(target, lambda _: _object(body))
            case "patch":
                return 200, self._patch(target, body)
            case "delete" if name:
                return 200, self._delete(target, query, body)
        raise StatusError(405, "MethodNotAllowed", f"{verb} is not allowed on {resource.plural}")

    def _delete(self, target: Target, query: Mapping[str, str], body: Any) -> Object:
        options = body if isinstance(body, dict) else {}
        grace = query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        gone = self.store.delete(
            target.resource,
            target.namespace,
            target.name,
            options.get("preconditions"),
            None if grace is None else int(grace),
        )
        if target.resource.kind == "Pod" or gone["metadata"].get("deletionTimestamp"):
            return gone
        details = {"name": target.name, "kind": target.resource.plural}
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}

    def _list(self, target: Target, query: Mapping[str, str]) -> Object:
        resource = target.resource
        chosen, version = self.store.shown(resource, target.namespace)
        if _SELECTORS & query.keys():
            chosen = list(filter(chosen_by(resource, query), chosen))
        metadata: Object = {"resourceVersion": str(version)}
        start, limit = _page(query)
        if limit and len(chosen) > start + limit:
            metadata["continue"] = str(start + limit)
        if limit:
            chosen = chosen[start : start + limit]
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": chosen,
        }

    def _bind(self, target: Target, body: Any) -> Object:
        stated = _object(body).get("metadata") or {}
        if stated.get("name") != target.name:
            raise bad_request("name in URL does not match name in Binding object")
        node = (body.get("target") or {}).get("name")
        if not node:
            raise StatusError(500, "", "target.name: Required value")  # a real one says no more

        def edit(pod: Object) -> Object:
            if pod["metadata"].get("deletionTimestamp"):
                raise conflict("pods/binding", target.name)
            # They are preconditions here, which no other object that is created has.
            for field in ("uid", "resourceVersion"):
                if stated.get(field) and stated[field] != pod["metadata"][field]:
                    raise conflict("pods/binding", target.name)
            if current := pod["spec"].get("nodeName"):
                raise StatusError(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on pods/binding "{target.name}": pod '
                    f'{target.name} is already assigned to node "{current}"',
                )
            if pod["spec"].get("schedulingGates"):
                raise StatusError(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on pods/binding "{target.name}": pod '
                    f"{target.name} has non-empty .spec.schedulingGates",
                )
            pod["spec"]["nodeName"] = node
            if extra := stated.get("annotations"):
                pod["metadata"].setdefault("annotations", {}).update(extra)
            pod["status"].setdefault("conditions", []).append(
                {"type": "PodScheduled", "status": "True"}
            )
            return pod

        store = self.store
        store.change(target.resource, target.namespace, target.name, edit, "binding")
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}

    def _patch(self, target: Target, body: Any) -> Object:
        kind = self.content_type
        patches: dict[str, Callable[[Any, Any], Any]] = {
            patching.MERGE: patching.merged,
            patching.JSON: patching.operated,
            patching.STRATEGIC: patching.strategic,
        }
        if kind not in patches:
            raise StatusError(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format: {kind}",
            )
        expected = list if kind == patching.JSON else dict
        if not isinstance(body, expected):
            raise bad_request(f"the patch is no JSON {expected.__name__}")

        def edit(old: Object) -> Object:
            try:
                new: Object = patches[kind](old, body)
                check_texts(new)
            except (patching.PatchError, TypeError) as error:
                raise StatusError(
                    422,
                    "Invalid",
                    f"the server rejected our request due to an error in our request: {error}",
                ) from None
            return new

        return self._change(target, edit)

    def _create(self, target: Target, query: Mapping[str, str], body: Object) -> Object:
        body.setdefault("metadata", {})
        if target.namespace:
            body["metadata"].setdefault("namespace", target.namespace)
        dry_run = query.get("dryRun") == "All"
        change = Change(target.resource, "CREATE", body, None, self.user, dry_run)
        new = admitted(change, self._objects)
        store = self.store
        return new if dry_run else store.create(target.resource, target.namespace, new)

    def _change(self, target: Target, edit: Callable[[Object], Object]) -> Object:
        """Webhooks see what a request makes of the object; its subresources are not theirs here."""
        resource = target.resource

        def seen(old: Object) -> Object:
            before = copy.deepcopy(old)
            new = edit(old)
            if target.subresource:
                return new
            change = Change(resource, "UPDATE", new, before, self.user)
            return admitted(change, self._objects)

        return self.store.change(resource, target.namespace, target.name, seen, target.subresource)

    def _objects(self, plural: str) -> list[Object]:
        return self.store.all(resource_of(plural))[0]


def chosen_by(resource: Resource, query: Mapping[str, str]) -> Test:
    """Whether an object is among those that a query's selectors choose. Raises `StatusError`."""
    labels = by_labels(query.get("labelSelector", ""))
    fields = by_fields(query.get("fieldSelector", ""), resource)
    return lambda item: labels(item) and fields(item)


def _page(query: Mapping[str, str]) -> tuple[int, int]:
    start, limit = query.get("continue", "0"), query.get("limit", "0")
    if not start.isdigit() or not limit.isdigit():
        raise bad_request("continue key is not valid")
    return int(start), int(limit)


def _object(body: Any) -> Object:
    if not isinstance(body, dict):
        raise bad_request("the body is no object")
    return body


def target_of(path: str) -> Target:
    """What a path means. Raises `StatusError` with 404."""
    for resource in RESOURCES:
        if not path.startswith(resource.prefix + "/"):
            continue
        parts = [unquote(part) for part in path[len(resource.prefix) + 1 :].split("/")]
        namespace = ""
        if resource.namespaced and len(parts) > 2 and parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        if parts[0] != resource.plural or len(parts) > 3:
            continue
        name, subresource, *_ = [*parts[1:], "", ""]
        if subresource and subresource not in resource.subresources:
            continue
        if name and resource.namespaced and not namespace:
            continue
        return Target(resource, namespace, name, subresource)
    raise StatusError(404, "NotFound", "the server could not find the requested resource")
