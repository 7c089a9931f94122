"""What is told of pods by events (hami-scheduler.md 4.9)."""

from __future__ import annotations

__all__ = [
    "BINDING_FAILED",
    "BINDING_SUCCEED",
    "CAME_PAST_WEBHOOK",
    "FILTERING_FAILED",
    "FILTERING_SUCCEED",
]

FILTERING_FAILED, FILTERING_SUCCEED = "FilteringFailed", "FilteringSucceed"
BINDING_FAILED, BINDING_SUCCEED = "BindingFailed", "BindingSucceed"
CAME_PAST_WEBHOOK = "CamePastWebhook"
"""Ours alone."""
