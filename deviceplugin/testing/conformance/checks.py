"""All checks, in the order in which a device goes through the framework."""

from __future__ import annotations

from deviceplugin.testing.conformance import discovery, handover, packaging, planning, scheduling
from deviceplugin.testing.conformance.model import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    *packaging.CHECKS,
    *discovery.CHECKS,
    *planning.CHECKS,
    *handover.CHECKS,
    *scheduling.CHECKS,
)
