"""The three patches that Kubernetes takes. Pure: a new object comes out, the old one stays.

Merge: RFC 7386. JSON: RFC 6902. Strategic: merge, with lists joined by the key that the API's
types name for them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "conditions": "type",
    "tolerations": "key",
    "ownerReferences": "uid",
    "addresses": "type",
    "schedulingGates": "name",
}
"""List fields that strategic merge joins by a key; all other lists are replaced."""

ATOMIC_SETS = frozenset({"finalizers"})
"""Lists of plain values that strategic merge unites."""


class PatchError(ValueError):
    """The patch is none, or does not fit the object (`test`)."""


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def strategic(target: Any, patch: Any, field: str = "") -> Any:
    """Strategic merge, for the fields of pods and nodes."""
    if isinstance(patch, Mapping):
        if patch.get("$patch") == "replace":
            return {k: v for k, v in patch.items() if k != "$patch"}
        result = dict(target) if isinstance(target, Mapping) else {}
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = strategic(result.get(key), value, key)
        return result
    if isinstance(patch, list) and isinstance(target, list):
        if field in ATOMIC_SETS:
            return [*target, *(item for item in patch if item not in target)]
        if key := MERGE_KEYS.get(field):
            return _joined(target, patch, key)
    return copy.deepcopy(patch)


def _joined(target: Sequence[Any], patch: Sequence[Any], key: str) -> list[Any]:
    result = list(target)
    for item in patch:
        same = next((i for i, old in enumerate(result) if old.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if same is not None:
                del result[same]
        elif same is None:
            result.append(copy.deepcopy(item))
        else:
            result[same] = strategic(result[same], item)
    return result


def operated(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises `PatchError`; nothing is changed then."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    result = copy.deepcopy(target)
    for operation in operations:
        if not isinstance(operation, Mapping) or not isinstance(operation.get("path"), str):
            raise PatchError("an operation needs op and path")
        result = _operate(result, operation)
    return result


def _operate(document: Any, operation: Mapping[str, Any]) -> Any:
    op, path = operation.get("op"), operation["path"]
    if op == "test":
        if _get(document, path) != operation.get("value"):
            raise PatchError(f"testing value {path} failed")
        return document
    if op in ("move", "copy"):
        value = copy.deepcopy(_get(document, operation["from"]))
        if op == "move":
            document = _operate(document, {"op": "remove", "path": operation["from"]})
        return _operate(document, {"op": "add", "path": path, "value": value})
    if path == "":
        return copy.deepcopy(operation.get("value"))
    *parents, last = _tokens(path)
    parent = document
    for part in parents:
        parent = _step(parent, part, path)
    if isinstance(parent, list):
        _operate_list(parent, last, op, operation, path)
    elif isinstance(parent, dict):
        _operate_object(parent, last, op, operation, path)
    else:
        raise PatchError(f"{path}: not in a container")
    return document


def _operate_list(
    parent: list[Any], part: str, op: Any, operation: Mapping[str, Any], path: str
) -> None:
    if op == "add" and part == "-":
        parent.append(copy.deepcopy(operation.get("value")))
        return
    index = int(part) if part.isdigit() else -1
    if not 0 <= index < len(parent) + (op == "add"):
        raise PatchError(f"{path}: no such index")
    if op == "add":
        parent.insert(index, copy.deepcopy(operation.get("value")))
    elif op == "remove":
        del parent[index]
    elif op == "replace":
        parent[index] = copy.deepcopy(operation.get("value"))
    else:
        raise PatchError(f"unknown operation {op!r}")


def _operate_object(
    parent: dict[str, Any], part: str, op: Any, operation: Mapping[str, Any], path: str
) -> None:
    # Kubernetes' library adds what `replace` does not find in an object, unlike RFC 6902.
    if op == "remove" and part not in parent:
        raise PatchError(f"{path}: missing value")
    if op == "remove":
        del parent[part]
    elif op in ("add", "replace"):
        parent[part] = copy.deepcopy(operation.get("value"))
    else:
        raise PatchError(f"unknown operation {op!r}")


def _get(document: Any, path: str) -> Any:
    for part in _tokens(path):
        document = _step(document, part, path)
    return document


def _step(parent: Any, part: str, path: str) -> Any:
    if isinstance(parent, dict) and part in parent:
        return parent[part]
    if isinstance(parent, list) and part.isdigit() and int(part) < len(parent):
        return parent[int(part)]
    raise PatchError(f"{path}: missing path")


def _tokens(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise PatchError(f"{path}: a pointer begins with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
