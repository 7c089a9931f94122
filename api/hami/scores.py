"""How well a node's cards are linked with each other (hami-nvidia-node.md 2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.gojson import loads_list, member, struct
from deviceplugin.api.hami.keys import NVIDIA_SCORE
from deviceplugin.api.hami.text import LARGEST, bounded, counted, shows_control

__all__ = ["PairScores", "decode", "encode", "from_json", "to_json"]


@dataclass(frozen=True, slots=True)
class PairScores:
    """The card `uuid` and its `scores` with other cards by their uuid; more is closer."""

    uuid: str
    scores: Mapping[str, int] = field(hash=False)


def encode(cards: Iterable[PairScores], annotation: str = NVIDIA_SCORE) -> str:
    """The annotation's text, cards in the order given. Raises `AnnotationError`."""
    shown = [to_json(card, annotation) for card in cards]
    counted(len(shown), annotation)
    return bounded(f"[{','.join(shown)}]", annotation)


def decode(text: str, annotation: str = NVIDIA_SCORE) -> tuple[PairScores, ...]:
    """The cards of the annotation, in its order. Raises `AnnotationError`."""
    return tuple(from_json(entry, annotation) for entry in loads_list(text, annotation))


def to_json(card: PairScores, annotation: str) -> str:
    """One card's object. Raises `AnnotationError`."""
    _check(card, annotation)
    return struct((("uuid", card.uuid), ("score", card.scores)))


def from_json(entry: Mapping[str, Any], annotation: str) -> PairScores:
    """One card, of its object. Raises `AnnotationError`."""
    uuid = member(entry, "uuid", str, annotation) or ""
    scores = member(entry, "score", dict, annotation) or {}
    card = PairScores(uuid, MappingProxyType(scores))
    _check(card, annotation)
    return card


def _check(card: PairScores, annotation: str) -> None:
    if not card.uuid:
        raise AnnotationError(annotation, "a card without uuid", "name it")
    for uuid in (card.uuid, *card.scores):
        if shows_control(uuid):
            raise AnnotationError(annotation, "control characters", "remove them", uuid)
    for uuid, score in card.scores.items():
        if type(score) is not int or not 0 <= score <= LARGEST:
            raise AnnotationError(
                annotation, "a score that is no number", f"write one from 0 to {LARGEST}", uuid
            )
