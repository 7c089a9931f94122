"""Runs checks; what a vendor's code raises is a finding and ends nothing."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator

from deviceplugin.testing.conformance.checks import CHECKS
from deviceplugin.testing.conformance.model import Check, NotApplicableError, Result
from deviceplugin.testing.conformance.subject import Subject, SubjectError

__all__ = ["examined", "run"]

MOST = 10
"""Findings of one check that are told one by one."""


def run(subject: Subject, checks: Iterable[Check] = CHECKS) -> Iterator[Result]:
    """The results, one check after the other. Raises `SubjectError` for an unusable profile."""
    for check in checks:
        yield examined(subject, check)


def examined(subject: Subject, check: Check) -> Result:
    """One check's result."""
    try:
        wrong = list(dict.fromkeys(check.run(subject)))
    except NotApplicableError as reason:
        return Result(check, skipped=str(reason))
    except SubjectError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename}:{where.lineno}"
        wrong = [f"{type(error).__name__}: {error} ({place})"]
    if len(wrong) > MOST:
        wrong = [*wrong[:MOST], f"and {len(wrong) - MOST} more"]
    return Result(check, tuple(wrong))
