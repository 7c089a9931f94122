"""A check, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from deviceplugin.testing.conformance.subject import Subject

__all__ = ["Check", "NotApplicableError", "Result", "Wrong"]

Wrong: TypeAlias = Iterable[str]
"""What is wrong, a sentence each, for the person who wrote the vendor."""


class NotApplicableError(Exception):
    """The check has nothing to look at; says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: `id` is stable, `what` the promise in a line, `why` what users suffer where it
    is broken.
    """

    id: str
    what: str
    why: str
    run: Callable[[Subject], Wrong]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check: passed when nothing is `wrong` and it was not `skipped`."""

    check: Check
    wrong: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def failed(self) -> bool:
        """Whether the promise is broken."""
        return bool(self.wrong)
