"""The wire of admission webhooks: reviews in, answers out, changes as JSON patches. Pure.

A review is answered in the version in which it was asked, v1 or v1beta1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.scheduler.bodies import parsed

__all__ = ["Answer", "Review", "ReviewError", "answered", "json_patch", "parse"]

VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")
LONGEST_WARNING = 250
"""Characters; API servers cut longer ones."""

Json = Mapping[str, Any]


class ReviewError(ValueError):
    """A request that is no review of a pod."""


@dataclass(frozen=True, slots=True)
class Review:
    """What is about to happen to a pod. `old` is None for a new one; `node` is the node that the
    user's token belongs to, empty where it says none.
    """

    version: str
    uid: str
    operation: str
    namespace: str
    pod: Json
    old: Json | None = None
    user: str = ""
    node: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Allowed with these `changes`, or refused with the text and the HTTP code `code`. Warnings are
    shown to whoever sent the pod.
    """

    refusal: str = ""
    code: int = 403
    changes: Sequence[Json] = ()
    warnings: Sequence[str] = field(default=())


def parse(body: bytes) -> Review:
    """Raises `ReviewError`."""
    try:
        found = parsed(body)
    except ValueError as error:
        raise ReviewError(f"the body is not JSON: {error}") from None
    request = _mapping(found, "request")
    version = str(found.get("apiVersion") or "")
    if version not in VERSIONS:
        raise ReviewError(f"apiVersion {version!r:.80} is none of {', '.join(VERSIONS)}")
    user = request.get("userInfo") or {}
    if not isinstance(user, Mapping):
        raise ReviewError("userInfo is not an object")
    old = request.get("oldObject")
    return Review(
        version=version,
        uid=str(request.get("uid") or ""),
        operation=str(request.get("operation") or ""),
        namespace=str(request.get("namespace") or ""),
        pod=_pod(_mapping(request, "object")),
        old=_pod(old) if isinstance(old, Mapping) else None,
        user=str(user.get("username") or ""),
        node=_node(user),
        dry_run=request.get("dryRun") is True,
    )


def answered(review: Review, answer: Answer) -> bytes:
    """The answer as the API server reads it."""
    response: dict[str, Any] = {"uid": review.uid, "allowed": not answer.refusal}
    if answer.refusal:
        response["status"] = {"code": answer.code, "message": answer.refusal}
    elif answer.changes:
        patch = json.dumps([dict(change) for change in answer.changes]).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if answer.warnings:
        response["warnings"] = [text[:LONGEST_WARNING] for text in answer.warnings]
    body = {"apiVersion": review.version, "kind": "AdmissionReview", "response": response}
    return json.dumps(body).encode()


def json_patch(before: Any, after: Any, path: str = "") -> Iterator[Json]:
    """The operations of RFC 6902 that make `after` of `before`. Lists grow at their end or are
    replaced whole.
    """
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() - after.keys():
            yield {"op": "remove", "path": f"{path}/{_escaped(key)}"}
        for key, value in after.items():
            place = f"{path}/{_escaped(key)}"
            if key in before:
                yield from json_patch(before[key], value, place)
            else:
                yield {"op": "add", "path": place, "value": value}
    elif isinstance(before, list) and isinstance(after, list) and len(before) <= len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=False)):
            yield from json_patch(old, new, f"{path}/{index}")
        for value in after[len(before) :]:
            yield {"op": "add", "path": f"{path}/-", "value": value}
    else:
        yield {"op": "replace", "path": path, "value": after}


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _pod(item: Json) -> Json:
    """With metadata, as every pod has once it is stored."""
    _mapping(item, "spec")
    metadata = item.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise ReviewError("metadata is not an object")
    for key in ("annotations", "labels"):
        if not isinstance(metadata.get(key) or {}, Mapping):
            raise ReviewError(f"metadata.{key} is not an object")
    return MappingProxyType({**item, "metadata": metadata})


def _mapping(item: object, key: str) -> Json:
    value = item.get(key) if isinstance(item, Mapping) else None
    if not isinstance(value, Mapping):
        raise ReviewError(f"the body is no AdmissionReview of a pod: it has no {key}")
    return value


def _node(user: Json) -> str:
    extra = user.get("extra")
    names = extra.get("authentication.kubernetes.io/node-name") if isinstance(extra, dict) else None
    return str(names[0]) if isinstance(names, list) and names else ""
