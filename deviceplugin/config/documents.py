"""The text of a file becomes a frozen tree of plain values: mappings with text keys, tuples,
texts, numbers, truth values and None. What is more than that is a problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import yaml

from deviceplugin.api.problems import Problem, shown, why
from deviceplugin.userfiles import remedy

__all__ = ["parse_document", "read_document"]

DEEPEST = 32
"""Levels of nesting; nothing that anybody reads here needs ten."""

EMPTY: Mapping[str, object] = MappingProxyType({})


class _DuplicateKeyError(ValueError):
    """A mapping says one thing twice."""


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: no timestamps, no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for position, (key, value) in enumerate(node.value):
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            mark = f"line {key.start_mark.line + 1}"
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                raise _DuplicateKeyError(f"{mark}: a key that is no text")
            if isinstance(name, bool | int):
                # As text already here: Python takes 1 and true for the same key.
                name = _key(name) or ""
                text = yaml.ScalarNode("tag:yaml.org,2002:str", name, key.start_mark, key.end_mark)
                node.value[position] = (text, value)
            if name in seen:
                raise _DuplicateKeyError(f"{mark}: the key {shown(name)} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_document(
    path: str, read: Callable[[str], str], problems: list[Problem], *, obligatory: bool
) -> Mapping[str, object] | None:
    """The document in a file; None when there is none to be had.

    A missing file is a problem only where it is `obligatory`.
    """
    try:
        text = read(path)
    except FileNotFoundError:
        if obligatory:
            problems.append(
                Problem(path, "", None, "no such file", "correct the path or create the file")
            )
        return None
    except UnicodeDecodeError:
        problems.append(Problem(path, "", None, "not UTF-8 text", "save it as UTF-8"))
        return None
    except (OSError, ValueError) as error:
        problems.append(Problem(path, "", None, f"cannot be read: {why(error)}", remedy(error)))
        return None
    return parse_document(text, path, problems)


def parse_document(text: str, source: str, problems: list[Problem]) -> Mapping[str, object] | None:
    """The mapping that a YAML or JSON text holds; an empty text is an empty mapping."""
    try:
        data = _json(text) if text.lstrip().startswith("{") else _yaml(text)
    except _DuplicateKeyError as error:
        problems.append(Problem(source, "", None, str(error), "remove one of the two"))
        return None
    except RecursionError:
        problems.append(_too_deep(source, ""))
        return None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        problems.append(
            Problem(source, "", None, f"neither YAML nor JSON: {reason}", "correct the syntax")
        )
        return None
    if data is None:
        return EMPTY
    before = len(problems)
    plain = _plain(data, source, "", problems, DEEPEST, {})
    if len(problems) > before:
        return None
    if not isinstance(plain, Mapping):
        problems.append(
            Problem(source, "", data, "not a mapping at the top", "write key: value pairs")
        )
        return None
    return plain


def _json(text: str) -> object:
    def unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise _DuplicateKeyError(f"the key {shown(key)} stands twice in one mapping")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError:
        return _yaml(text)  # YAML's flow style begins with a brace, too


def _yaml(text: str) -> object:
    return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)


def _plain(
    value: object,
    source: str,
    path: str,
    problems: list[Problem],
    depth: int,
    done: dict[int, object],
) -> object:
    """`value` frozen. `done` keeps what an anchor shares shared, whatever its size unfolded."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        rule, remedy = _scalar(value)
        if rule:
            problems.append(Problem(source, path, value, rule, remedy))
        return value
    if id(value) in done:
        return done[id(value)]
    if depth == 0:
        problems.append(_too_deep(source, path))
        return None
    if isinstance(value, dict):
        members: dict[str, object] = {}
        for key, item in value.items():
            name = _key(key)
            if name is None:
                problems.append(
                    Problem(source, path, key, "a key that is no text", "put the key in quotes")
                )
                continue
            place = f"{path}.{name}" if path else name
            members[name] = _plain(item, source, place, problems, depth - 1, done)
        done[id(value)] = frozen = MappingProxyType(members)
        return frozen
    if isinstance(value, list):
        items = tuple(
            _plain(item, source, f"{path}[{position}]", problems, depth - 1, done)
            for position, item in enumerate(value)
        )
        done[id(value)] = items
        return items
    problems.append(
        Problem(source, path, value, "a value that JSON does not have", "write it as a text")
    )
    return None


def _scalar(value: int | float | str) -> tuple[str, str]:
    """The rule that a scalar breaks and the remedy; two empty texts when it breaks none."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "not Unicode", "remove the lone surrogate"
    elif isinstance(value, int):
        if abs(value) > 2**63:
            return "a number beyond 64 bits", "write a smaller one, or put it in quotes"
    elif not math.isfinite(value):
        return "not a finite number", "write a number"
    return "", ""


def _key(key: object) -> str | None:
    """A key as JSON has it: numbers and truth values become their text."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key) if abs(key) <= 2**63 else None
    if isinstance(key, str) and not _scalar(key)[0]:
        return key
    return None


def _too_deep(source: str, path: str) -> Problem:
    rule = f"nested deeper than {DEEPEST} levels"
    return Problem(source, path, None, rule, "remove the nesting, or the anchor inside itself")
