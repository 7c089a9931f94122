"""NUMA hints of devices and the topology manager's policies (kubelet-deviceplugin.md 2.6). Pure.

A mask is a set of NUMA nodes. `devices` maps the ids of one resource to the nodes of each; an empty
tuple means that the device has no topology.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

Policy = Literal["none", "best-effort", "restricted", "single-numa-node"]
Mask = frozenset[int]
Nodes = Mapping[str, tuple[int, ...]]

REFUSED = "Resources cannot be allocated with Topology locality"


@dataclass(frozen=True, slots=True)
class Hint:
    """A set of nodes that could serve a request; no mask means that any will do."""

    mask: Mask | None
    preferred: bool


ANYWHERE = Hint(None, preferred=True)
NOWHERE = Hint(None, preferred=False)


def has_topology(devices: Nodes) -> bool:
    """Whether a resource takes part in alignment at all."""
    return any(devices.values())


def hints(
    devices: Nodes,
    available: Set[str],
    reusable: Set[str],
    request: int,
    machine: Sequence[int],
    *,
    by_device_nodes: bool,
) -> list[Hint]:
    """Masks with enough available devices; preferred are those of the least size that all devices,
    healthy or not, would allow. Reusable devices must be inside the mask.
    """
    hosting = {node for nodes in devices.values() for node in nodes}
    ranged = [node for node in machine if node in hosting] if by_device_nodes else list(machine)
    ranged = ranged or list(machine)
    least, found = len(ranged), []
    anchored = {i for i in reusable if devices.get(i)}
    for size in range(1, len(ranged) + 1):
        for mask in map(frozenset, itertools.combinations(ranged, size)):
            within = {i for i, nodes in devices.items() if mask.intersection(nodes)}
            if len(within) >= request:
                least = min(least, size)
            if anchored <= within and len(anchored) + len(within & available) >= request:
                found.append(mask)
    return [Hint(mask, preferred=len(mask) == least) for mask in found]


def merge(
    policy: Policy, providers: Iterable[Sequence[Hint] | None], machine: Sequence[int]
) -> tuple[Hint, bool]:
    """The best common hint of several resources, and whether the policy admits the container.

    None for a provider means no preference, an empty sequence that no placement will do.
    """
    if policy == "none":
        return ANYWHERE, True
    lists = [[ANYWHERE] if p is None else list(p) or [NOWHERE] for p in providers] or [[ANYWHERE]]
    whole = frozenset(machine)
    if policy == "single-numa-node":
        lists = [
            [h for h in found if h.preferred and (h.mask is None or len(h.mask) == 1)]
            for found in lists
        ]
    best = _best(lists, whole)
    if policy == "single-numa-node" and best.mask == whole:
        best = Hint(None, best.preferred)
    return best, policy == "best-effort" or best.preferred


def _best(lists: Sequence[Sequence[Hint]], whole: Mask) -> Hint:
    """The preferred hint with the fewest nodes, or else the one closest to what is needed."""
    smallest = [
        min((len(h.mask) for h in found if h.mask is not None), default=0) for found in lists
    ]
    wanted = max(smallest, default=0)
    best: Hint | None = None
    for permutation in itertools.product(*lists):
        masks = [hint.mask for hint in permutation if hint.mask is not None]
        mask = whole.intersection(*masks)
        if not mask:
            continue
        agreed = all(other == masks[0] for other in masks)
        candidate = Hint(mask, preferred=agreed and all(h.preferred for h in permutation))
        if best is None or _is_better(candidate, best, wanted):
            best = candidate
    return best or Hint(whole, preferred=False)


def _is_better(candidate: Hint, current: Hint, wanted: int) -> bool:
    """Preferred beats not preferred. Among preferred ones fewer nodes win; among others a size
    close to `wanted` but not above it.
    """
    if candidate.preferred != current.preferred:
        return candidate.preferred
    assert candidate.mask is not None
    assert current.mask is not None
    sizes = len(candidate.mask), len(current.mask)
    if not candidate.preferred and sizes[0] != sizes[1] and sizes[1] <= wanted:
        return sizes[1] < sizes[0] <= wanted
    return _narrowness(candidate.mask) < _narrowness(current.mask)


def _narrowness(mask: Mask) -> tuple[int, int]:
    return len(mask), sum(1 << node for node in mask)


def by_affinity(
    available: Set[str], devices: Nodes, mask: Mask | None
) -> tuple[set[str], set[str], set[str]]:
    """Available devices as aligned with the mask, unaligned, and without affinity.

    A device with several nodes is aligned when one of them is in the mask.
    """
    if mask is None or not has_topology(devices):
        return set(), set(), set(available)
    without = {identity for identity in available if not devices.get(identity)}
    aligned = {i for i in available - without if mask.intersection(devices[i])}
    return aligned, set(available) - without - aligned, without
