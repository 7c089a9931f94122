"""What a node's agent of ours tells schedulers of ours, beyond HAMi's wire."""

from __future__ import annotations

from typing import Final

__all__ = ["ALLOCATION", "ANNOUNCES", "DEFERRED"]

ALLOCATION: Final = "node.deviceplugin.dev/allocation"
"""``deferred`` on nodes where a scheduler needs no lock: grants are handed over by evidence."""
DEFERRED: Final = "deferred"

ANNOUNCES: Final = "node.deviceplugin.dev/announces"
"""The annotations of the node that are an agent's of ours, joined by commas: what an agent with
another configuration, or a clean-up, has to take back, even after everything on the node was lost.
"""
