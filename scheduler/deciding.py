"""What the scheduler decides about a pod, apart from who asks and where it is written down. Pure
but for the views that `Cluster` keeps.
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from deviceplugin.placement.observe import Held
from deviceplugin.scheduler import filtering
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.filtering import Found, Nowhere, Request
from deviceplugin.scheduler.quota import Quotas

__all__ = ["decide", "holding_of"]


def decide(
    cluster: Cluster,
    quotas: Quotas,
    wanted: Request,
    names: Collection[str],
    mine: Holding | None = None,
) -> Found | Nowhere:
    """The best of the nodes with these names, within the quotas of the pod's namespace; `mine` is
    what the pod holds already, which it gives up for this.
    """
    refused = quotas.refusal(wanted.pod.namespace, quotas.asked(wanted.asks), mine)
    if refused is not None:  # wherever it went
        return Nowhere(dict.fromkeys(names, refused))
    return filtering.choose(
        cluster,
        wanted,
        frozenset(names),
        lambda placement: quotas.allows(wanted, placement, mine),
    )


def holding_of(wanted: Request, found: Found, cluster: Cluster) -> Holding:
    """What the pod holds once it is where it was found a place."""
    pod = wanted.pod
    held: dict[str, tuple[Held, ...]] = {}
    for word, containers in found.placement.containers.items():
        remembers = cluster.backends[word].remembers
        remembered = {key: pod.annotations[key] for key in remembers if key in pod.annotations}
        held[word] = tuple(
            Held(
                pod.uid,
                f"{pod.namespace}/{pod.name}",
                devices,
                ask.container.init and not ask.container.sidecar,
                remembered,
                position,
            )
            for position, (ask, devices) in enumerate(zip(wanted.asks, containers, strict=True))
            if devices
        )
    node = found.placement.node
    return Holding(pod.uid, pod.namespace, pod.name, node, MappingProxyType(held))
