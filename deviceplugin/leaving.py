"""What a preStop hook tells the agent of its own pod: that it goes for good. The agent runs on
until the hook has ended, and would put back what the hook takes away.

Only the agent of that pod: another one on the same node stays, and restores what is its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PREFIX", "Leaving"]

PREFIX = "leaving-"
"""Of the mark's name, in the directory of the agent's records."""


class Leaving:
    """The mark that a pod's hook leaves and its agent looks for. Every method blocks."""

    def __init__(self, run_dir: Path, environ: Mapping[str, str] = os.environ) -> None:
        """A pod is known by ``POD_NAMESPACE`` and ``POD_NAME``; an agent without these has no hook
        that could tell it.
        """
        namespace, name = environ.get("POD_NAMESPACE", ""), environ.get("POD_NAME", "")
        told = namespace and name and "/" not in namespace + name
        self.mark = run_dir / f"{PREFIX}{namespace}_{name}" if told else None

    def announced(self) -> bool:
        """Whether the agent goes for good."""
        return self.mark is not None and self.mark.exists()

    def announce(self) -> None:
        """Tell it. Raises `OSError`."""
        if self.mark is not None:
            self.mark.touch()

    def forget(self) -> None:
        """The pod's agent begins, or has ended."""
        if self.mark is not None:
            self.mark.unlink(missing_ok=True)
