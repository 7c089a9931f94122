"""Label and field selectors. Pure; raise `StatusError` as a real server does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from deviceplugin.testing.apiserver.resources import Resource
from deviceplugin.testing.apiserver.status import bad_request

Test = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"(?P<key>\S+)\s+(?P<op>in|notin)\s+\((?P<values>[^)]*)\)")
_EQUAL = re.compile(r"(?P<key>[^!=\s]+)\s*(?P<op>!=|==|=)\s*(?P<value>[^=\s]*)")
_SPLIT = re.compile(r",(?![^(]*\))")


def by_labels(text: str) -> Test:
    """The test of a label selector; an empty one lets everything through."""
    tests = [_label(part.strip()) for part in _SPLIT.split(text) if part.strip()]
    return lambda item: all(test(item) for test in tests)


def _label(part: str) -> Test:
    def label(item: Mapping[str, Any], key: str) -> str | None:
        value = ((item.get("metadata") or {}).get("labels") or {}).get(key)
        return None if value is None else str(value)

    if found := _SET.fullmatch(part):
        key, wanted = found["key"], {v.strip() for v in found["values"].split(",")}
        if found["op"] == "in":
            return lambda item: label(item, key) in wanted
        return lambda item: label(item, key) not in wanted
    if found := _EQUAL.fullmatch(part):
        key, value, negative = found["key"], found["value"], found["op"] == "!="
        return lambda item: (label(item, key) == value) != negative
    if part.startswith("!"):
        return lambda item: label(item, part[1:].strip()) is None
    if re.fullmatch(r"[\w./-]+", part):
        return lambda item: label(item, part) is not None
    raise bad_request(f"unable to parse requirement: {part}")


def by_fields(text: str, resource: Resource) -> Test:
    """The test of a field selector."""
    tests = []
    for part in filter(None, text.split(",")):
        found = _EQUAL.fullmatch(part.strip())
        if not found:
            raise bad_request(f"invalid selector: {part!r}; can't understand {part!r}")
        key = found["key"]
        if key not in {"metadata.name", "metadata.namespace", *resource.fields}:
            raise bad_request(f"field label not supported: {key}")
        tests.append(_field(key, found["value"], found["op"] == "!="))
    return lambda item: all(test(item) for test in tests)


def _field(key: str, wanted: str, negative: bool) -> Test:
    def test(item: Mapping[str, Any]) -> bool:
        value: Any = item
        for part in key.split("."):
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        return (str(value) == wanted) != negative

    return test
