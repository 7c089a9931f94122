"""Legal names of extended resources (kubelet-deviceplugin.md 2.3). Pure."""

from __future__ import annotations

import re

_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_QUOTA = "requests."


def is_extended_resource(name: str) -> bool:
    """Whether kubelet takes a registration under this name."""
    if "/" not in name or "kubernetes.io/" in name or name.startswith(_QUOTA):
        return False
    prefix, _, rest = f"{_QUOTA}{name}".partition("/")
    return len(prefix) <= 253 and bool(_SUBDOMAIN.fullmatch(prefix) and _NAME.fullmatch(rest))
