"""The partitions that schedulers grant in operating mode mig: what the probe is asked for, and
what is left of the grant. Pure (hami-nvidia-node.md 4.2, 4.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deviceplugin.vendor import Grant, Owner
from deviceplugin.vendors.nvidia import geometry, mig_request
from deviceplugin.vendors.nvidia.settings import NvidiaSettings


def request(grant: Grant, owner: Owner, settings: NvidiaSettings) -> dict[str, Any] | None:
    """The request for the partition of a grant; None where cards are not partitioned on demand, or
    the grant is a partition already. Raises `ValueError` for one that no partition can honour.
    """
    card = grant.device
    if not settings.dynamic_mig:
        if grant.slot:
            mode = settings.section.operating_mode
            raise ValueError(
                f"partition {grant.slot} of {card.uuid} is granted, but this node is in operating "
                f"mode {mode} and makes none: wait until the scheduler knows that, and try again"
            )
        return None
    if card.parent_uuid:
        return None
    if not grant.slot:
        raise ValueError(_whole(grant, owner))
    found = geometry.match(card.model, settings.geometries)
    if found is None:
        raise ValueError(
            f"no entry of nvidia.knownMigGeometries names {card.model!r} ({card.uuid}): add it to "
            "an entry's models"
        )
    slot = geometry.slot(grant.slot)
    profile = geometry.partition(slot, found)
    if (grant.memory_mib or 0) > profile.memory:
        raise ValueError(
            f"partition {grant.slot} of {card.uuid} has {profile.memory} MiB ({profile.name}), but "
            f"{grant.memory_mib} MiB are granted: give scheduler and node the same "
            "nvidia.knownMigGeometries"
        )
    holder = f"{owner.pod_uid}/{owner.container}"
    return mig_request.request(card.uuid, slot, found.row.geometries[slot.geometry], holder)


def granted(grant: Grant, answer: Mapping[str, Any]) -> Grant:
    """The grant of the partition that was made. Raises `ValueError` for another card's."""
    device = mig_request.answered(answer)
    if device.parent_uuid != grant.device.uuid:
        raise ValueError(
            f"the probe answered {device.uuid} of {device.parent_uuid}, asked for a partition of "
            f"{grant.device.uuid}"
        )
    return replace(grant, device=device, shares=1, of=1, memory_mib=None, cores_percent=None)


def check(grants: Sequence[Grant], owner: Owner, settings: NvidiaSettings) -> None:
    """In operating mode mig nobody gets a card as a whole. Raises `ValueError`."""
    for grant in grants if settings.dynamic_mig else ():
        if not grant.device.parent_uuid:
            raise ValueError(_whole(grant, owner))


def _whole(grant: Grant, owner: Owner) -> str:
    """Why a card as a whole is refused. HAMi's schedulers grant one where a container asks for no
    amount of memory and no partition is as large as the card.
    """
    uuid = grant.device.uuid
    if grant.slot:
        return f"partition {grant.slot} of {uuid} was not made before the container"
    if owner.scheduled:
        return (
            f"the scheduler granted {uuid} without a partition, which operating mode mig does not "
            "hand out: ask for an amount of memory that a partition has"
        )
    return (
        f"{uuid} is partitioned as schedulers ask (operating mode mig), and none was asked: set "
        "--allocation to a scheduled mode, or nvidia.operatingMode to hami-core"
    )
