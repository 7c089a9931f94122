"""Bodies of requests as values, whoever sent them. Pure."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MOST_VALUES", "parsed"]

MOST_VALUES = 1_000_000
"""Of one body; 2,000 whole nodes have half as many. In memory a value is up to a hundred bytes,
which may be a hundred times what it is on the wire."""


def parsed(body: bytes) -> Any:
    """The value of a body of JSON. Raises `ValueError`, in words that go into the answer."""
    # Each value but the first of its list or object stands behind a comma.
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
