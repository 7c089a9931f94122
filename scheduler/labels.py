"""Conditions of label selectors, as Kubernetes has them for pods and nodes alike. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["Requirement"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition of a label selector; an operator that nobody knows holds for nobody."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether somebody with these labels meets it."""
        test = _OPERATORS.get(self.operator)
        return test is not None and test(labels.get(self.key), self.values)


_OPERATORS: Mapping[str, Callable[[str | None, frozenset[str]], bool]] = MappingProxyType(
    {
        "In": lambda found, values: found in values,
        "NotIn": lambda found, values: found not in values,
        "Exists": lambda found, _: found is not None,
        "DoesNotExist": lambda found, _: found is None,
    }
)
