"""What a node tells schedulers of its devices, as annotations of the Node. Pure.

Source: hami-nvidia-node.md 1.9, 2.2 to 2.5; the list is in the devices' own order, so that it
changes only when something did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from deviceplugin.api.hami import handshake, register, scores
from deviceplugin.api.hami.keys import VENDORS, Registration, VendorKeys
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ALLOCATION, ANNOUNCES, DEFERRED
from deviceplugin.splitting import Table
from deviceplugin.vendor import PhysicalDevice, ResourcePlan
from deviceplugin.vendor.registered import node_device

__all__ = [
    "Offer",
    "described",
    "handshakes",
    "keys_of",
    "node_annotations",
    "offer",
]

OUR_DOMAIN = "deviceplugin.dev"


@dataclass(frozen=True, slots=True)
class Offer:
    """One resource's devices for schedulers; `scores` only where they are wanted. `annotations`
    are the node's in the vendor's own form.
    """

    keys: VendorKeys
    devices: tuple[NodeDevice, ...]
    scores: tuple[scores.PairScores, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def described(plan: ResourcePlan, table: Table) -> tuple[NodeDevice, ...]:
    """The devices as schedulers count them: what the split makes of memory and cores.

    A device without a memory figure is left out, because nothing of it can be divided.
    """
    word = plan.keys.common_word if plan.keys else ""
    return tuple(
        _described(device, plan, word) for device in table.devices.values() if device.memory_mib
    )


def offer(
    plan: ResourcePlan,
    table: Table,
    devices: Sequence[NodeDevice] | None,
    *,
    scored: bool,
    annotations: Mapping[str, str] | None = None,
) -> Offer | None:
    """The offer of a resource that schedulers know; None for any other. `devices` is the vendor's
    own description, None where it has none; `annotations` are the vendor's own. Raises
    `ValueError` for annotations that are not this resource's.
    """
    if plan.keys is None:
        return None
    found = tuple(described(plan, table) if devices is None else devices)
    pairs = tuple(
        scores.PairScores(d.uuid, {u: s for u, s in d.links.items() if u in table.devices})
        for d in table.devices.values()
    )
    own = dict(annotations or {})
    if strange := sorted(own.keys() - keys_of(plan.keys)):
        raise ValueError(
            f"{plan.resource}: the vendor writes the annotation {strange[0]!r:.80}, which is none "
            "of this resource's; name it in the resource's keys"
        )
    return Offer(plan.keys, found, pairs if scored else (), MappingProxyType(own))


def node_annotations(offers: Sequence[Offer], *, deferred: bool) -> dict[str, str]:
    """The annotations that the node should have. Raises `api.hami.errors.AnnotationError` for
    devices that cannot be written.
    """
    wanted: dict[str, str] = {}
    for item in offers:
        keys = item.keys
        wanted |= item.annotations
        if keys.register is None or not item.devices:
            continue
        if keys.registration is Registration.JSON:
            wanted[keys.register] = register.encode(item.devices, keys.register)
        elif keys.registration is Registration.LEGACY:
            wanted[keys.register] = register.encode_legacy(item.devices, keys.register)
        if item.scores and keys.score:
            wanted[keys.score] = scores.encode(item.scores, keys.score)
    if deferred and wanted:
        wanted[ALLOCATION] = DEFERRED
    return wanted


def owned(current: Mapping[str, str]) -> frozenset[str]:
    """The annotations of a node that are ours to remove, by its own word. Only names that agents
    of this sort ever write count, so that nobody can make us remove another's.
    """
    named = current.get(ANNOUNCES, "").split(",")
    ours = {key for key in named if key.partition("/")[0].endswith(OUR_DOMAIN) or _is_known(key)}
    return frozenset(current.keys() & {*ours, ANNOUNCES})


def _is_known(key: str) -> bool:
    return any(key in keys_of(keys) for keys in VENDORS.values())


def handshakes(
    offers: Sequence[Offer], current: Mapping[str, str], now: datetime, changed: bool
) -> dict[str, str]:
    """The handshakes that are due now."""
    due = {}
    for item in offers:
        keys = item.keys
        if keys.handshake is None or not item.devices:
            continue
        answer = handshake.answer(
            current.get(keys.handshake),
            now,
            answers=keys.common_word not in handshake.SILENT,
            changed=changed,
        )
        if answer is not None:
            due[keys.handshake] = handshake.encode(answer)
    return due


def keys_of(keys: VendorKeys) -> tuple[str, ...]:
    """Every annotation of a node that is one resource's."""
    own = (keys.register, keys.score, keys.handshake, *keys.node_others)
    return tuple(key for key in own if key)


def _described(device: PhysicalDevice, plan: ResourcePlan, word: str) -> NodeDevice:
    """Schedulers look for the word in the type (hami-scheduler.md 4.6)."""
    model = device.model
    return node_device(device, plan, model if word in model else f"{word}-{model}".rstrip("-"))
