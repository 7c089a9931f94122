"""YAML as the readers in runtimes type it, with doubled keys refused (cdi.md 1.1).

Those readers take the older words for booleans and the newer forms of numbers together, and dates
and sexagesimals as text. A scalar is typed here exactly so: what comes out as something else
than text would have reached the runtime as another text than was written.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml


def _words(text: str) -> str:
    words = text.split()
    return "|".join(f"{word}|{word.capitalize()}|{word.upper()}" for word in words)


# Type -> the letters that it can begin with, and its form.
_TYPES = {
    "bool": ("yYnNtTfFoO", _words("y yes n no true false on off")),
    "null": ("~nN\0", f"~||{_words('null')}"),
    "int": ("-+0123456789", "(?i:[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-f_]+|0|[1-9][0-9_]*))"),
    "float": (
        "-+.0123456789",
        r"(?i:[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)(e[-+]?[0-9][0-9_]*)?|[-+]?\.inf|\.nan)",
    ),
    "merge": ("<", "<<"),
}


class Loader(yaml.SafeLoader):
    """A safe loader with these types."""

    bool_values: ClassVar[dict[str, bool]] = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping; a key that stands twice is an error as in runtimes."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {}
for _name, (_first, _form) in _TYPES.items():
    Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}",
        re.compile(rf"(?:{_form})\Z"),
        [letter.strip("\0") for letter in _first],
    )


def load(text: str) -> object:
    """The one document in a text. Raises `ValueError` saying why it is none."""
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as problem:
        raise ValueError(" ".join(str(problem).split())) from None
