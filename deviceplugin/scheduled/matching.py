"""Which container a scheduler meant with which part of its annotation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deviceplugin.api.hami import poddevices
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import VendorKeys
from deviceplugin.api.hami.poddevices import ContainerDevices, PodDevices
from deviceplugin.apiserver.objects import Container, Pod

__all__ = ["Assignment", "NoGrantError", "assignments", "emptied", "remaining", "without_next"]


class NoGrantError(ValueError):
    """The pod's annotations give its containers nothing that can be told apart; says why."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the scheduler gave one container of one vendor's resource."""

    container: Container
    devices: ContainerDevices


def assignments(pod: Pod, keys: VendorKeys, resource: str) -> tuple[Assignment, ...]:
    """Every container's devices, in the order in which kubelet asks for them.

    Read from the annotation that no plugin changes. Raises `NoGrantError`.
    """
    try:
        devices = _read(pod.annotations, keys.allocated, keys)
        found = poddevices.segments(devices)
        init, regular = (
            [bool(c.requests.get(resource)) for c in containers]
            for containers in (pod.init_containers, pod.containers)
        )
        owners = poddevices.owners(devices, init, regular, keys.allocated)
    except AnnotationError as error:
        raise NoGrantError(f"pod {pod.key}: {error}") from None
    if not found:
        raise NoGrantError(
            f"pod {pod.key} has no annotation {keys.allocated} with devices of "
            f"{keys.common_word}: no scheduler gave it {resource}; its schedulerName is probably "
            "not one that knows this resource"
        )
    containers = tuple(pod.all_containers())
    for index in owners:
        if not containers[index].requests.get(resource):
            asking = ", ".join(c.name for c in containers if c.requests.get(resource))
            raise NoGrantError(
                f"pod {pod.key}: annotation {keys.allocated} serves {len(found)} containers, but "
                f"those that ask for {resource} are {asking or 'none'}: which of them gets what "
                "cannot be told"
            )
    return tuple(
        Assignment(containers[index], devices[position])
        for index, position in zip(owners, found, strict=True)
    )


def remaining(pod: Pod, keys: VendorKeys) -> int:
    """How many containers have not been served, by the annotation that plugins empty.

    Raises `NoGrantError`.
    """
    if keys.to_allocate is None:
        return 0
    try:
        return len(poddevices.segments(_read(pod.annotations, keys.to_allocate, keys)))
    except AnnotationError as error:
        raise NoGrantError(f"pod {pod.key}: {error}") from None


def without_next(value: str, word: str) -> str:
    """The text with the vendor's first container emptied and every ``;`` kept, so that a plugin of
    another version can go on with it. `value` is one that `remaining` has read.
    """
    parts = value.split(";")
    for position, part in enumerate(parts):
        if _serves(part, word):
            parts[position] = ""
            break
    return ";".join(parts)


def emptied(value: str, word: str) -> str:
    """The text with all the vendor's containers emptied."""
    return ";".join("" if _serves(part, word) else part for part in value.split(";"))


def _serves(part: str, word: str) -> bool:
    return any(piece.split(",")[1:2] == [word] for piece in part.split(":"))


def _read(annotations: Mapping[str, str], key: str, keys: VendorKeys) -> PodDevices:
    decoded = poddevices.decode(annotations.get(key, ""), key)
    return poddevices.of_type(decoded, keys.common_word)
