"""Which devices the containers of a pod get (hami-nvidia-node.md 3.2, 4.2).

A device is ``uuid,type,MiB,percent`` ended by ``:``, a container its devices ended by ``;``, and
one annotation holds the containers of a pod for one vendor. The node's agent empties its copy of
them one by one.

Positions cannot be trusted: some agents drop empty containers when they write the text back, and
some schedulers put them in front. The order of those with devices always holds; `owners` goes by
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deviceplugin.api.hami.errors import AnnotationError, in_turn
from deviceplugin.api.hami.text import (
    LARGEST,
    RESERVED,
    bounded,
    clean,
    counted,
    whole,
)

__all__ = [
    "ContainerDevice",
    "ContainerDevices",
    "MigSlot",
    "PodDevices",
    "decode",
    "decode_container",
    "encode",
    "encode_container",
    "erase",
    "of_type",
    "owners",
    "segments",
]


@dataclass(frozen=True, slots=True)
class MigSlot:
    """One instance of a partitioned card: ``[geometry-position]`` after its uuid."""

    geometry: int
    position: int

    @property
    def name(self) -> str:
        """``geometry-position``."""
        return f"{self.geometry}-{self.position}"

    def __str__(self) -> str:
        return f"[{self.name}]"


@dataclass(frozen=True, slots=True)
class ContainerDevice:
    """What one container gets of one card: `memory` in MiB and `cores` in percent.

    `type` is the vendor's common word, not the model; `slot` is set on partitioned cards.
    """

    uuid: str
    type: str
    memory: int
    cores: int
    slot: MigSlot | None = None


ContainerDevices: TypeAlias = tuple[ContainerDevice, ...]
PodDevices: TypeAlias = tuple[ContainerDevices, ...]


def encode(containers: Iterable[Iterable[ContainerDevice]], annotation: str) -> str:
    """The annotation's text, containers in the order given. Raises `AnnotationError`."""
    shown = in_turn(encode_container, containers, annotation, "container")
    counted(len(shown), annotation)
    return bounded("".join(f"{devices};" for devices in shown), annotation)


def encode_container(devices: Iterable[ContainerDevice], annotation: str) -> str:
    """One container's devices. Raises `AnnotationError`."""
    return "".join(in_turn(_device_text, devices, annotation, "device"))


def decode(text: str, annotation: str) -> PodDevices:
    """All containers, those without devices too. Raises `AnnotationError`."""
    containers = clean(text, annotation).removesuffix(";").split(";") if text else []
    counted(text.count(":"), annotation)
    counted(len(containers), annotation)
    return in_turn(_container, containers, annotation, "container")


def decode_container(text: str, annotation: str) -> ContainerDevices:
    """One container's devices, without the ``;`` at its end. Raises `AnnotationError`."""
    counted(text.count(":"), annotation)
    return _container(clean(text, annotation), annotation)


def of_type(containers: PodDevices, word: str) -> PodDevices:
    """Only the devices of one type, every container in its place. A scheduler of version 2.8 adds
    other vendors' devices where one container asks for two vendors.
    """
    return tuple(tuple(each for each in devices if each.type == word) for devices in containers)


def segments(containers: PodDevices) -> tuple[int, ...]:
    """The positions of the containers that have devices."""
    return tuple(position for position, devices in enumerate(containers) if devices)


def erase(containers: PodDevices, position: int) -> PodDevices:
    """The same with one container emptied, every other in its place."""
    return (*containers[:position], (), *containers[position + 1 :])


def owners(
    containers: PodDevices, init: Sequence[bool], regular: Sequence[bool], annotation: str
) -> tuple[int, ...]:
    """Whose devices these are: for each of `segments`, an index into the pod's containers.

    `init` and `regular` say of each of the pod's containers whether it asks for this vendor's
    devices; the index counts the init containers first. `containers` is what was allocated,
    before anything was erased, and of this vendor's type only.

    Where as many containers have devices as ask for them, order decides: of all of them, else of
    the regular ones, because version 2.8 gives nothing to init containers. Otherwise position
    does. Raises `AnnotationError` where a position means no container of the pod.
    """
    found = segments(containers)
    asking = [index for index, asks in enumerate((*init, *regular)) if asks]
    asking_regular = [index for index in asking if index >= len(init)]
    for candidates in (asking, asking_regular):
        if len(candidates) == len(found):
            return tuple(candidates)
    total = len(init) + len(regular)
    offset = 0 if len(containers) == total else len(init)
    if found and (len(containers) > total or found[-1] + offset >= total):
        raise AnnotationError(
            annotation,
            f"devices by position for {len(containers)} containers, of {total} that the pod has",
            "have the pod made anew",
        )
    return tuple(position + offset for position in found)


def _container(text: str, annotation: str) -> ContainerDevices:
    pieces = [piece for piece in text.split(":") if piece]
    devices = in_turn(_device, pieces, annotation, "device")
    return tuple(device for device in devices if device is not None)


def _device(piece: str, annotation: str) -> ContainerDevice | None:
    """A device; None for the blank one by which the oldest schedulers said that there is none.

    Fields after the fourth are those of a newer version, and ignored.
    """
    fields = piece.split(",")
    if len(fields) < 4:
        raise AnnotationError(
            annotation,
            f"a device of {len(fields)} fields, of 4 expected",
            "have the pod scheduled by HAMi, without nodeName",
            piece,
        )
    memory = whole(fields[2], annotation, "memory")
    cores = whole(fields[3], annotation, "cores")
    uuid, bracket, slot = fields[0].partition("[")
    if not uuid and not bracket:
        return None
    device = ContainerDevice(
        uuid, fields[1], memory, cores, _slot(slot, annotation) if bracket else None
    )
    _check(device, annotation)
    return device


def _slot(text: str, annotation: str) -> MigSlot:
    """The slot that stands behind a ``[``. Raises `AnnotationError`."""
    geometry, _, position = text.removesuffix("]").partition("-")
    slot = MigSlot(whole(geometry, annotation, "geometry"), whole(position, annotation, "position"))
    if str(slot) != f"[{text}":
        raise AnnotationError(
            annotation, "no slot of a card", "write uuid[geometry-position]", f"[{text}"
        )
    return slot


def _device_text(device: ContainerDevice, annotation: str) -> str:
    _check(device, annotation)
    uuid = f"{device.uuid}{device.slot}" if device.slot else device.uuid
    return f"{uuid},{device.type},{device.memory},{device.cores}:"


def _check(device: ContainerDevice, annotation: str) -> None:
    """The rules for what is read and what is written."""
    if not device.uuid:
        raise AnnotationError(annotation, "a device without uuid", "name it", device.type)
    for text in (device.uuid, device.type):
        if any(character in text for character in RESERVED):
            raise AnnotationError(annotation, f"a name with one of {RESERVED}", "use another", text)
        clean(text, annotation)
    amounts = [device.memory, device.cores]
    if device.slot:
        amounts += [device.slot.geometry, device.slot.position]
    if not all(0 <= amount <= LARGEST for amount in amounts):
        raise AnnotationError(
            annotation, "a number out of range", f"write one from 0 to {LARGEST}", device.uuid
        )
