"""A node's devices as its agent registers them (hami-nvidia-node.md 2.3).

There are two forms: a JSON list, and the older text of fields with commas that several vendors
still write. `decode` reads both. It is stricter than version 2.8 and like 2.10: what is no number
is refused instead of being zero. Nothing is sorted, and ids need not be unique; agents pass devices
by index, so that the text changes only when a device does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from deviceplugin.api.hami import scores
from deviceplugin.api.hami.errors import AnnotationError, in_turn
from deviceplugin.api.hami.gojson import Json, frozen, loads_list, member, refuse_other_case, struct
from deviceplugin.api.hami.keys import NVIDIA_REGISTER
from deviceplugin.api.hami.scores import PairScores
from deviceplugin.api.hami.text import (
    LARGEST,
    RESERVED,
    bounded,
    clean,
    counted,
    truth,
    whole,
)

__all__ = ["NodeDevice", "decode", "encode", "encode_legacy"]

HAMI_CORE: Final = "hami-core"
"""The mode of the oldest form, which does not tell it."""

_NAMES = frozenset(
    {
        "id",
        "index",
        "count",
        "devmem",
        "devcore",
        "type",
        "numa",
        "mode",
        "health",
        "devicevendor",
        "custominfo",
        "devicepairscore",
    }
)


def _empty() -> Mapping[str, Json]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDevice:
    """One physical device.

    `count` is how many may share it, `memory` its MiB and `cores` its percent, both already scaled;
    `type` is its model or, of some vendors, their common word. `numa` -1 is unknown, and so may 0
    be: both are written alike by most. `mode` is ``hami-core``, ``mig``, ``mps`` or empty; `vendor`
    and `pair_scores` are rarely sent. `custom` is whatever else the vendor tells, in JSON's types.
    """

    uuid: str
    count: int
    memory: int
    cores: int
    type: str
    healthy: bool
    numa: int = 0
    index: int = 0
    mode: str = ""
    vendor: str = ""
    custom: Mapping[str, Json] = field(default_factory=_empty, hash=False)
    pair_scores: PairScores | None = None


def encode(devices: Iterable[NodeDevice], annotation: str = NVIDIA_REGISTER) -> str:
    """The JSON form, as version 2.8 writes it to the byte. Raises `AnnotationError`."""
    shown = in_turn(_to_json, devices, annotation, "device")
    counted(len(shown), annotation)
    return bounded(f"[{','.join(shown)}]", annotation)


def encode_legacy(devices: Iterable[NodeDevice], annotation: str = NVIDIA_REGISTER) -> str:
    """The older form, of nine fields. It has no place for `vendor`, `custom` and `pair_scores`.

    No devices at all are an empty text, which no peer can read. Raises `AnnotationError`.
    """
    shown = in_turn(_to_fields, devices, annotation, "device")
    counted(len(shown), annotation)
    return bounded("".join(shown), annotation)


def decode(text: str, annotation: str = NVIDIA_REGISTER) -> tuple[NodeDevice, ...]:
    """The devices of either form, in their order. Raises `AnnotationError`."""
    if text.lstrip(" \t\r\n").startswith("["):
        return in_turn(_from_json, loads_list(text, annotation), annotation, "device")
    if ":" not in bounded(text, annotation):
        raise AnnotationError(
            annotation, "neither a JSON list nor devices ended by :", "have it written anew", text
        )
    pieces = [piece for piece in text.split(":") if piece]
    counted(len(pieces), annotation)
    return in_turn(_from_fields, pieces, annotation, "device")


def _to_json(device: NodeDevice, annotation: str) -> str:
    _check(device, annotation)
    pairs = scores.to_json(device.pair_scores, annotation) if device.pair_scores else "{}"
    members: tuple[tuple[str, Json], ...] = (
        ("id", device.uuid),
        ("index", device.index),
        ("count", device.count),
        ("devmem", device.memory),
        ("devcore", device.cores),
        ("type", device.type),
        ("numa", device.numa),
        ("mode", device.mode),
        ("health", device.healthy),
        ("devicevendor", device.vendor),
        ("custominfo", device.custom),
    )
    return f'{struct(members)[:-1]},"devicepairscore":{pairs}}}'


def _from_json(entry: Mapping[str, Any], annotation: str) -> NodeDevice:
    refuse_other_case(entry, _NAMES, annotation)
    custom = member(entry, "custominfo", dict, annotation)
    pairs = member(entry, "devicepairscore", dict, annotation)
    device = NodeDevice(
        uuid=member(entry, "id", str, annotation) or "",
        index=member(entry, "index", int, annotation) or 0,
        count=member(entry, "count", int, annotation) or 0,
        memory=member(entry, "devmem", int, annotation) or 0,
        cores=member(entry, "devcore", int, annotation) or 0,
        type=member(entry, "type", str, annotation) or "",
        numa=member(entry, "numa", int, annotation) or 0,
        mode=member(entry, "mode", str, annotation) or "",
        healthy=member(entry, "health", bool, annotation) or False,
        vendor=member(entry, "devicevendor", str, annotation) or "",
        custom=frozen(custom, annotation) if custom else _empty(),
        pair_scores=scores.from_json(pairs, annotation) if pairs else None,
    )
    _check(device, annotation)
    return device


def _to_fields(device: NodeDevice, annotation: str) -> str:
    _check(device, annotation)
    for what, text in (("type", device.type), ("mode", device.mode)):
        if any(separator in text for separator in ",:"):
            raise AnnotationError(annotation, f"{what} has , or :", "use the JSON form", text)
    healthy = "true" if device.healthy else "false"
    return (
        f"{device.uuid},{device.count},{device.memory},{device.cores},{device.type},"
        f"{device.numa},{healthy},{device.index},{device.mode}:"
    )


def _from_fields(piece: str, annotation: str) -> NodeDevice:
    fields = piece.split(",")
    if len(fields) not in (7, 9):
        raise AnnotationError(
            annotation, f"a device of {len(fields)} fields", "write 7 or 9 of them", piece
        )
    uuid, count, memory, cores, kind, numa, healthy = fields[:7]
    index, mode = fields[7:] or ("0", HAMI_CORE)
    device = NodeDevice(
        uuid=uuid,
        count=whole(count, annotation, "count"),
        memory=whole(memory, annotation, "memory"),
        cores=whole(cores, annotation, "cores"),
        type=kind,
        numa=whole(numa, annotation, "numa", -1),
        healthy=truth(healthy, annotation, "health"),
        index=whole(index, annotation, "index"),
        mode=mode,
    )
    _check(device, annotation)
    return device


def _check(device: NodeDevice, annotation: str) -> None:
    """The rules of both forms, for what is read and what is written."""
    uuid = device.uuid
    if not uuid:
        raise AnnotationError(annotation, "a device without id", "name it", device.type)
    if any(character in uuid for character in RESERVED):
        raise AnnotationError(
            annotation, f"an id with one of {RESERVED}", "use another: no pod could name it", uuid
        )
    for text in (uuid, device.type, device.mode, device.vendor):
        clean(text, annotation)
    if not (
        0 <= device.count <= LARGEST
        and 0 <= device.memory <= LARGEST
        and 0 <= device.cores <= LARGEST
        and 0 <= device.index <= LARGEST
        and -1 <= device.numa <= LARGEST
    ):
        raise AnnotationError(
            annotation, "a number out of range", f"write one from 0 to {LARGEST}", uuid
        )
