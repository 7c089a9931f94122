"""The groups of checks of a whole cluster, in the order in which a pod meets them."""

from __future__ import annotations

from typing import Any

from deviceplugin.doctor.fleet import control, nodes, quotas, waiting, webhook
from deviceplugin.doctor.model import Group

__all__ = ["GROUPS"]

GROUPS: tuple[Group[Any], ...] = (
    webhook.GROUP,
    control.GROUP,
    nodes.GROUP,
    waiting.GROUP,
    quotas.GROUP,
)
