"""How well two GPUs are connected, as one number (kubelet-deviceplugin.md 4.8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

NVLINK_SCORE = 100


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A GPU as NVML knows it; `bus_id` as `normal_bus_id` writes it."""

    handle: Any
    uuid: str
    bus_id: str


def normal_bus_id(bus_id: str) -> str:
    """A bus id as the kernel writes it: lower case, a domain of four digits."""
    lower = bus_id.lower()
    return lower.removeprefix("0000") if len(lower.partition(":")[0]) == 8 else lower


def topology_score(level: int) -> int:
    """The score of NVML's level of the common ancestor: from 10 for another CPU socket (level 50)
    to 60 for the same board (level 0).
    """
    return 60 - level


def scores(nvml: Any, endpoints: Sequence[Endpoint]) -> Mapping[str, Mapping[str, int]]:
    """The scores of all pairs by both uuids. What NVML does not tell of a pair counts as 0."""
    table: dict[str, dict[str, int]] = {end.uuid: {} for end in endpoints}
    if len(endpoints) < 2:
        return table
    lines = {end.uuid: _nvlinks(nvml, end.handle) for end in endpoints}
    for one, two in combinations(endpoints, 2):
        count = max(lines[one.uuid][two.bus_id], lines[two.uuid][one.bus_id])
        if score := _topology(nvml, one, two) + NVLINK_SCORE * count:
            table[one.uuid][two.uuid] = table[two.uuid][one.uuid] = score
    return table


def _topology(nvml: Any, one: Endpoint, two: Endpoint) -> int:
    try:
        level = nvml.nvmlDeviceGetTopologyCommonAncestor(one.handle, two.handle)
    except nvml.NVMLError:
        return 0
    return topology_score(level)


def _nvlinks(nvml: Any, handle: Any) -> Counter[str]:
    """The number of active NVLinks by the bus id at their other end."""
    found: Counter[str] = Counter()
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if not nvml.nvmlDeviceGetNvLinkState(handle, link):
                continue
            remote = nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link)
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_INVALID_ARGUMENT, nvml.NVML_ERROR_NOT_SUPPORTED):
                break
            continue
        found[normal_bus_id(remote.busId)] += 1
    return found
