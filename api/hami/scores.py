"""How well a node's cards are linked with each other (hami-nvidia-node.md 2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami.errors import AnnotationError, in_turn
from deviceplugin.api.hami.gojson import loads_list, member, refuse_other_case, struct
from deviceplugin.api.hami.keys import NVIDIA_SCORE
from deviceplugin.api.hami.text import LARGEST, bounded, clean, counted

__all__ = ["PairScores", "decode", "encode", "from_json", "to_json"]

_NAMES = frozenset({"uuid", "score"})


@dataclass(frozen=True, slots=True)
class PairScores:
    """The card `uuid` and its `scores` with other cards by their uuid; more is closer."""

    uuid: str
    scores: Mapping[str, int] = field(hash=False)


def encode(cards: Iterable[PairScores], annotation: str = NVIDIA_SCORE) -> str:
    """The annotation's text, cards in the order given. Raises `AnnotationError`."""
    shown = in_turn(to_json, cards, annotation, "card")
    counted(len(shown), annotation)
    return bounded(f"[{','.join(shown)}]", annotation)


def decode(text: str, annotation: str = NVIDIA_SCORE) -> tuple[PairScores, ...]:
    """The cards of the annotation, in its order. Raises `AnnotationError`."""
    return in_turn(from_json, loads_list(text, annotation), annotation, "card")


def to_json(card: PairScores, annotation: str) -> str:
    """One card's object. Raises `AnnotationError`."""
    _check(card, annotation)
    return struct((("uuid", card.uuid), ("score", card.scores)))


def from_json(entry: Mapping[str, Any], annotation: str) -> PairScores:
    """One card, of its object. Raises `AnnotationError`."""
    refuse_other_case(entry, _NAMES, annotation)
    uuid = member(entry, "uuid", str, annotation) or ""
    scores = member(entry, "score", dict, annotation) or {}
    card = PairScores(uuid, MappingProxyType(scores))
    _check(card, annotation)
    return card


def _check(card: PairScores, annotation: str) -> None:
    if not card.uuid:
        raise AnnotationError(annotation, "a card without uuid", "name it")
    for uuid in (card.uuid, *card.scores):
        clean(uuid, annotation)
    for uuid, score in card.scores.items():
        if type(score) is not int or not 0 <= score <= LARGEST:
            raise AnnotationError(
                annotation, "a score that is no number", f"write one from 0 to {LARGEST}", uuid
            )
