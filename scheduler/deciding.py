"""What the scheduler decides about a pod, apart from who asks and where it is written down. Pure
but for the views that `Cluster` keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType

from deviceplugin.placement.observe import Held
from deviceplugin.scheduler import filtering
from deviceplugin.scheduler.cluster import Cluster, Holding
from deviceplugin.scheduler.filtering import Found, Nowhere, Request
from deviceplugin.scheduler.quota import Quotas

__all__ = ["decide", "helps", "holding_of", "victims"]


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
    gone = () if mine is None else (mine,)
    refused = quotas.refusal(wanted.pod.namespace, quotas.asked(wanted.asks), gone)
    if refused is not None:  # wherever it went
        return Nowhere(dict.fromkeys(names, refused))
    return filtering.choose(
        cluster,
        wanted,
        frozenset(names),
        lambda placement: quotas.allows(wanted, placement, gone),
    )


def helps(
    cluster: Cluster, quotas: Quotas, wanted: Request, name: str, victims: Collection[str]
) -> bool:
    """Whether the pod may be on a node once the pods with these uids are gone."""
    uids = (wanted.pod.uid, *victims)
    gone = [holding for uid in uids if (holding := cluster.holding(uid)) is not None]
    return filtering.fits_without(
        cluster,
        wanted,
        name,
        victims,
        lambda placement: quotas.allows(wanted, placement, gone),
    )


def victims(
    cluster: Cluster,
    quotas: Quotas,
    wanted: Request,
    name: str,
    given: Sequence[str],
    others: Sequence[str],
) -> tuple[str, ...] | None:
    """Whose going makes a place for the pod on a node: the pods `given`, which have to go for
    another reason, and of `others` as few as do, the first of them first. None where it does not
    help, or where nobody has to go.
    """

    def enough(more: Collection[str]) -> bool:
        return helps(cluster, quotas, wanted, name, (*given, *more))

    if enough(()):
        return tuple(given) or None
    if not enough(others):
        return None
    going: list[str] = []
    for uid in others:
        going.append(uid)
        if enough(going):
            break
    for uid in reversed(going[:-1]):  # some went for nothing, of them the most important stay
        if enough(rest := [other for other in going if other != uid]):
            going = rest
    return (*given, *going)


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
                ask.demands[word].part,
            )
            for position, (ask, devices) in enumerate(zip(wanted.asks, containers, strict=True))
            if devices
        )
    node = found.placement.node
    return Holding(pod.uid, pod.namespace, pod.name, node, MappingProxyType(held))
