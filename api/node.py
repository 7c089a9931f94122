"""What a node's agent of ours tells schedulers of ours, beyond HAMi's wire."""

from __future__ import annotations

from typing import Final

__all__ = ["ALLOCATION", "DEFERRED"]

ALLOCATION: Final = "node.deviceplugin.dev/allocation"
"""``deferred`` on nodes where a scheduler needs no lock: grants are handed over by evidence."""
DEFERRED: Final = "deferred"
