"""Between a specification and the text of its file (cdi.md 1.1).

Written is JSON, the form that no reader misunderstands. Read are JSON and YAML, strictly: an
unknown or a doubled key is an error, because it is one for the runtime, which then does not see the
whole file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass, replace
from types import MappingProxyType, UnionType
from typing import Any, get_args, get_origin

from deviceplugin.cdi.errors import CDIError, Problem, error
from deviceplugin.cdi.model import Spec
from deviceplugin.cdi.schema import members, plain
from deviceplugin.cdi.validation import check
from deviceplugin.cdi.versions import CURRENT, rank, required_version

# In YAML a pair of surrogates is no character, so characters stand for themselves but for these.
_SURROGATE = re.compile("[\ud800-\udfff]+")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_WANTED = {
    str: "text is wanted; quote it",
    int: "a whole number is wanted",
    bool: "true or false is wanted",
    list: "a list is wanted",
    dict: "an object is wanted",
}


def to_dict(spec: Spec) -> dict[str, Any]:
    """The specification as the plain data of its file, with the lowest version where it has none.

    Raises `CDIError` when it is not valid.
    """
    version = spec.cdi_version or required_version(spec)
    check(stated := replace(spec, cdi_version=version))
    return {"cdiVersion": version, **plain(stated)}


def dumps(spec: Spec) -> str:
    """The text of the file, as JSON that is YAML too: runtimes read both with the parser for YAML.

    Raises `CDIError` when the specification is not valid or holds what is no Unicode text, as
    names of files may.
    """
    text = json.dumps(to_dict(spec), separators=(",", ":"), ensure_ascii=False)
    if found := _SURROGATE.search(text):
        raise error("a text is not Unicode", ascii(found[0]))
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def loads(text: str, *, source: str = "", yaml: bool = False, max_version: str = CURRENT) -> Spec:
    """The valid specification in a text, as a reader takes it that knows up to `max_version`.

    Raises `CDIError` with `source` and the fields that are wrong.
    """
    data = _parse(text, source, yaml)
    if isinstance(data, dict) and (rule := _version_problem(data.get("cdiVersion"), max_version)):
        raise error(rule, str(data.get("cdiVersion") or ""), source=source, field="cdiVersion")
    decoder = _Decoder(source)
    spec: Spec = decoder.value("", data, Spec)
    if decoder.problems:
        raise CDIError(decoder.problems)
    check(spec, source, strict=False)
    return spec


def _parse(text: str, source: str, yaml: bool) -> object:
    if not text.strip():
        raise error("the file is empty", source=source)
    try:
        if not yaml:
            return json.loads(text, object_pairs_hook=_once)
        from deviceplugin.cdi.yaml_loader import load

        return load(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"not {'YAML' if yaml else 'JSON'}: {problem}", source=source) from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)} stands twice")
    return dict(pairs)


def _version_problem(version: object, newest: str) -> str:
    """Why the rest need not be read."""
    if version is None or version == "":
        return "the field is missing"
    if isinstance(version, str) and rank(version) > rank(newest):
        return f"this reader knows versions up to {newest}"
    return ""


class _Decoder:
    """Plain data to values. With `problems`, what it answers is not a value of its type."""

    def __init__(self, source: str) -> None:
        self.problems: list[Problem] = []
        self._source = source

    def value(self, place: str, data: object, kind: Any) -> Any:
        """The data as a value of this type."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is UnionType:  # X | None; null counts as absent and does not come here
            return self.value(place, data, arguments[0])
        if origin is tuple:
            items = enumerate(self._checked(place, data, list) or ())
            return tuple(self.value(f"{place}[{i}]", item, arguments[0]) for i, item in items)
        if origin is Mapping:
            found = self._checked(place, data, dict) or {}
            texts = {key: self.value(f"{place}.{key}", found[key], str) for key in found}
            return MappingProxyType(texts)
        if is_dataclass(kind):
            return self._object(place, data, kind)
        return self._checked(place, data, kind)

    def _object(self, place: str, data: object, kind: Any) -> Any:
        found = self._checked(place, data, dict)
        if found is None:
            return None
        known = {member.key for member in members(kind)}
        for key in found:
            if key not in known:
                self._wrong(_inside(place, key), "", "unknown field")
        values = {}
        for member in members(kind):
            item = found.get(member.key)
            if item is not None:
                inner = _inside(place, member.key)
                values[member.attribute] = self.value(inner, item, member.kind)
            elif member.default is MISSING:
                values[member.attribute] = None
                self._wrong(_inside(place, member.key), "", "the field is missing")
        return kind(**values)

    def _checked(self, place: str, data: object, kind: type) -> Any:
        """The data when it is exactly of this type: true is no number, and a key is text."""
        if type(data) is not kind:
            return self._wrong(place, data, _WANTED[kind])
        for key in data if isinstance(data, dict) else ():
            if not isinstance(key, str):
                self._wrong(place, key, "a key is text; quote it")
        return data

    def _wrong(self, place: str, value: object, rule: str) -> None:
        self.problems.append(Problem(self._source, place, str(value), rule))


def _inside(place: str, key: object) -> str:
    return f"{place}.{key}".removeprefix(".")
