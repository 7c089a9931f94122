"""The annotations of MetaX's own form, and the words of pods (1.3.1, 1.3.2, 1.3.6). Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.poddevices import ContainerDevice

NODE = "metax-tech.com/node-gpu-devices"
ALLOCATED = "metax-tech.com/gpu-devices-allocated"
PREDICATE_TIME = "metax-tech.com/predicate-time"
QOS = "metax-tech.com/sgpu-qos-policy"
APP_CLASS = "metax-tech.com/sgpu-app-class"
TOPOLOGY_AWARE = "metax-tech.com/sgpu-topology-aware"
LOSSES = "metax-tech.com/gpu.topology.losses"
SCORES = "metax-tech.com/gpu.topology.scores"

POLICIES = ("best-effort", "fixed-share", "burst-share")
"""In the order of the driver's numbers 0, 1, 2."""

ONLINE, OFFLINE = "online", "offline"
MOST = 1024
INT32 = 2**31 - 1
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SgpuCard:
    """A card as its node describes it; memory in MiB."""

    uuid: str
    bdf: str = ""
    model: str = ""
    count: int = 0
    compute: int = 0
    memory_mib: int = 0
    available_count: int = 0
    available_compute: int = 0
    available_memory_mib: int = 0
    numa: int = 0
    healthy: bool = False
    qos: str = ""
    link_zone: int = 0


_KEYS = (
    ("uuid", "uuid", str),
    ("bdf", "bdf", str),
    ("model", "model", str),
    ("totalDevCount", "count", int),
    ("totalCompute", "compute", int),
    ("totalVRam", "memory_mib", int),
    ("availableDevCount", "available_count", int),
    ("availableCompute", "available_compute", int),
    ("availableVRam", "available_memory_mib", int),
    ("numa", "numa", int),
    ("healthy", "healthy", bool),
    ("qosPolicy", "qos", str),
    ("linkZone", "link_zone", int),
)


def encode(cards: Sequence[SgpuCard]) -> str:
    """The node's list: what is zero is left out, but for `uuid` and `healthy`."""
    shown = [
        {
            key: value
            for key, attribute, _ in _KEYS
            if (value := getattr(card, attribute)) or key in ("uuid", "healthy")
        }
        for card in cards
    ]
    return json.dumps(shown, separators=(",", ":"))


def decode(text: str) -> tuple[SgpuCard, ...]:
    """The node's list. Raises `AnnotationError`."""

    def wrong(why: str, value: object = None) -> AnnotationError:
        shown = text if value is None else str(value)
        return AnnotationError(NODE, why, "have the node's plugin write it anew", shown[:80])

    if len(text) > MOST_BYTES:
        raise wrong(f"longer than {MOST_BYTES} characters")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong("no JSON") from None
    if not isinstance(data, list) or len(data) > MOST:
        raise wrong(f"no list of at most {MOST} cards")
    cards = []
    for entry in data:
        if not isinstance(entry, dict) or not entry.get("uuid"):
            raise wrong("an entry without uuid", entry)
        values: dict[str, Any] = {}
        for key, attribute, kind in _KEYS:
            value = entry.get(key)
            if value is None:
                continue
            if type(value) is not kind or (type(value) is int and abs(value) > INT32):
                raise wrong(f"{key} is no {kind.__name__} of 32 bits", value)
            values[attribute] = value
        cards.append(SgpuCard(**values))
    return tuple(cards)


def allocated(containers: Sequence[Sequence[ContainerDevice]]) -> str:
    """What every container gets, for MetaX's plugin; what is zero is left out."""
    return json.dumps(
        [
            [
                {
                    key: value
                    for key, value in (
                        ("uuid", device.uuid),
                        ("compute", device.cores),
                        ("vRam", device.memory),
                    )
                    if value
                }
                for device in devices
            ]
            for devices in containers
        ],
        separators=(",", ":"),
    )
