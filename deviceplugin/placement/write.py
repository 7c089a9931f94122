"""A decision as annotations of the pod, byte for byte what HAMi's agents read. Pure.

Source: hami-scheduler.md 3.3. Version 2.8 lists regular containers only; since 2.9 init containers
stand in front (11.4), which only an agent that says so understands.
"""

from __future__ import annotations

from collections.abc import Sequence

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.keys import VGPU_NODE, VGPU_TIME
from deviceplugin.placement.fit import Backends, Placement
from deviceplugin.placement.observe import NodeView
from deviceplugin.placement.presence import annotates
from deviceplugin.placement.request import Ask
from deviceplugin.vendor.scheduling import PodSpec

__all__ = ["decision"]

NANOSECONDS = 10**9


def decision(
    placement: Placement,
    view: NodeView,
    pod: PodSpec,
    wanted: Sequence[Ask],
    backends: Backends,
    now_ns: int,
    *,
    init_listed: bool,
) -> dict[str, str]:
    """The annotations of a placed pod. `view` is the node as it was, `now_ns` unix time in
    nanoseconds; `init_listed` where the node's agent reads the order of 2.9.

    Raises `AnnotationError` for devices that cannot be written, and `ValueError` where an init
    container would get devices that this node's agent would take for another's.
    """
    found = {VGPU_NODE: view.facts.name, VGPU_TIME: str(now_ns // NANOSECONDS)}
    listed = [i for i, ask in enumerate(wanted) if init_listed or not ask.container.init]
    for word, containers in placement.containers.items():
        backend = backends[word]
        keys = backend.keys
        for position, devices in enumerate(containers):
            if devices and position not in listed:
                raise ValueError(
                    f"init container {wanted[position].container.name} asks for "
                    f"{backend.resources.count}, which the agent of node {view.facts.name} does "
                    "not serve: move the work into a regular container"
                )
        written = [containers[i] for i in listed]
        text = poddevices.encode(written, keys.allocated)
        found[keys.allocated] = text
        if keys.to_allocate:
            found[keys.to_allocate] = text
        if annotates(backend):
            cards = view.cards[word]
            found |= backend.annotations(view.facts, cards, written, pod, now_ns)
    return found
