"""From the names of devices to the edits that a runtime makes (cdi.md 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deviceplugin.cdi.cache import Cache
from deviceplugin.cdi.errors import CDIError, Problem
from deviceplugin.cdi.model import ContainerEdits


class UnresolvableError(CDIError):
    """Some names are in no readable file; `names` lists them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        rule = f"unresolvable CDI devices {', '.join(names)}"
        super().__init__([Problem("", "", "", rule)])


def resolve(names: Iterable[str], cache: Cache) -> tuple[ContainerEdits, ...]:
    """The edits of these devices in the order in which they are applied.

    A file's own edits come once, before those of the first of its devices. Raises
    `UnresolvableError` naming all that are unknown.
    """
    names = list(names)
    if missing := [name for name in names if name not in cache.devices]:
        raise UnresolvableError(missing)
    edits: list[ContainerEdits] = []
    seen = set()
    for name in names:
        found = cache.devices[name]
        if found.origin.path not in seen:
            seen.add(found.origin.path)
            edits.append(found.origin.spec.container_edits)
        edits.append(found.device.container_edits)
    return tuple(edits)


def combine(parts: Iterable[ContainerEdits]) -> ContainerEdits:
    """Edits one after the other; a later variable replaces an earlier one in its place."""
    parts = list(parts)
    env = {entry.partition("=")[0]: entry for part in parts for entry in part.env}
    return ContainerEdits(
        env=tuple(env.values()),
        device_nodes=tuple(node for part in parts for node in part.device_nodes),
        net_devices=tuple(device for part in parts for device in part.net_devices),
        hooks=tuple(hook for part in parts for hook in part.hooks),
        mounts=tuple(mount for part in parts for mount in part.mounts),
        intel_rdt=next((part.intel_rdt for part in reversed(parts) if part.intel_rdt), None),
        additional_gids=tuple(gid for part in parts for gid in part.additional_gids),
    )
