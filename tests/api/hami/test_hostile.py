"""Whatever stands in an annotation, a decoder answers with a value or an `AnnotationError`."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami import handshake, nodelock, pod, poddevices, register, scores
from deviceplugin.api.hami.errors import LONGEST, AnnotationError
from deviceplugin.api.hami.keys import VENDORS

KEY = "hami.io/the-annotation"
NOW = datetime(2026, 1, 20, 8, 15, 30, tzinfo=UTC)
KEEP = handshake.Verdict(handshake.Action.KEEP)
Decoder = Callable[[str], object]
DECODERS: dict[str, Decoder] = {
    "register": lambda text: register.decode(text, KEY),
    "scores": lambda text: scores.decode(text, KEY),
    "pod devices": lambda text: poddevices.decode(text, KEY),
    "container devices": lambda text: poddevices.decode_container(text, KEY),
    "node lock": lambda text: nodelock.decode(text, KEY),
    "bind phase": lambda text: pod.decode_phase(text, KEY),
    "time": lambda text: pod.decode_time(text, KEY),
}
WRITERS: dict[str, Callable[[object], str]] = {
    "register": lambda value: register.encode(value, KEY),  # type: ignore[arg-type]
    "scores": lambda value: scores.encode(value, KEY),  # type: ignore[arg-type]
    "pod devices": lambda value: poddevices.encode(value, KEY),  # type: ignore[arg-type]
    "container devices": lambda value: poddevices.encode_container(value, KEY),  # type: ignore[arg-type]
    "node lock": lambda value: nodelock.encode(value, KEY),  # type: ignore[arg-type]
}
SEEDS = [
    '[{"id":"GPU-1","index":1,"count":10,"devmem":81559,"devcore":100,"type":"NVIDIA A100","numa":1,"mode":"hami-core","health":true,"devicevendor":"v","custominfo":{"NetworkID":0,"a":[1,{"b":null}]},"devicepairscore":{"uuid":"a","score":{"b":1}}}]',
    "GPU-1,10,7680,100,NVIDIA-Tesla P4,0,true,1,hami-core:GPU-2,10,7680,100,NVIDIA-Tesla P4,0,true:",
    '[{"uuid":"GPU-0","score":{"GPU-1":50,"GPU-2":20}},{"uuid":"GPU-1","score":{"GPU-0":50}}]',
    "GPU-a[1-0],NVIDIA,5120,14:GPU-b,NVIDIA,500,3:;;GPU-b,NVIDIA,500,3,extra:;",
    "2026-01-20T08:15:30+08:00,default,train-0",
    "1768896930",
    "allocating",
    "Reported 2025-05-22 09:39:04.293791216 +0000 UTC m=+121.021111",
    "Requesting_2026-01-20 08:15:30",
]
BITS = [
    *",:;[]{}\"'\\-+_.eE0129 \n\t\0\x7f\x85\u2028\ufeff\U0001f600٣",
    "null", "true", "NaN", "Infinity", "\\u0000", "\\ud800", "\ud800", "[[", "}}", "99999999999999999999",
    "9" * 5000, "[" * 2000, '{"a":' * 2000, "-0", "1e999", "Requesting", "Deleted", "::::", ";;;;", "İ",
]  # fmt: skip


def answered(decode: Decoder, text: str) -> object:
    """The value, or None for a proper refusal. Anything else fails the test."""
    try:
        return decode(text)
    except AnnotationError as error:
        assert error.annotation == KEY
        assert error.reason
        assert error.remedy
        assert len(error.excerpt) <= LONGEST + 3
        assert str(error).isprintable()
        return None


def mutated(chance: random.Random, text: str) -> str:
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(text))
        match chance.randrange(5):
            case 0:
                text = text[:start] + text[start + chance.randint(1, 5) :]
            case 1:
                text = text[:start] + chance.choice(BITS) + text[start:]
            case 2:
                text = text[:start] + chance.choice(BITS) + text[start + 1 :]
            case 3:
                end = min(len(text), start + chance.randint(1, 40))
                text = text[:end] + text[start:end] + text[end:]
            case 4:
                other = chance.choice(SEEDS)
                text = text[:start] + other[chance.randint(0, len(other)) :]
    return text


@pytest.mark.parametrize("name", DECODERS)
def test_thousands_of_spoiled_annotations_are_answered(name: str) -> None:
    chance = random.Random(name)
    refused = 0
    for turn in range(3000):
        text = mutated(chance, SEEDS[turn % len(SEEDS)])
        value = answered(DECODERS[name], text)
        refused += value is None
        if value is not None and name in WRITERS:
            again = DECODERS[name](WRITERS[name](value))
            assert _without_fraction(again) == _without_fraction(value), text
    assert refused > 0


def test_thousands_of_spoiled_handshakes_have_a_verdict() -> None:
    chance = random.Random("handshake")
    for turn in range(3000):
        text = mutated(chance, SEEDS[turn % len(SEEDS)])
        verdict = handshake.judge(text, NOW, allocatable=0)
        if verdict.write:
            assert handshake.judge(handshake.encode(verdict.write), NOW, allocatable=0) == KEEP


@pytest.mark.parametrize("name", DECODERS)
@given(text=st.text())
def test_any_text_is_answered(name: str, text: str) -> None:
    answered(DECODERS[name], text)


@pytest.mark.parametrize("word", VENDORS)
def test_a_pod_full_of_nonsense_is_answered(word: str) -> None:
    chance, vendor = random.Random(word), VENDORS[word]
    own = ["hami.io/vgpu-node", "hami.io/vgpu-time", "hami.io/bind-phase", "hami.io/bind-time"]
    keys = [*own, vendor.allocated, *([vendor.to_allocate] if vendor.to_allocate else [])]
    for _ in range(300):
        annotations = {key: mutated(chance, chance.choice(SEEDS)) for key in keys}
        try:
            pod.pod_grant(annotations, vendor)
        except AnnotationError as error:
            assert error.annotation in keys


def test_an_excerpt_of_json_shows_where_it_breaks() -> None:
    with pytest.raises(AnnotationError) as caught:
        register.decode("[" + '{"id":"a"},' * 1000 + "oops]", KEY)
    assert "oops" in caught.value.excerpt


def test_an_error_survives_a_process_boundary() -> None:
    with pytest.raises(AnnotationError) as caught:
        register.decode("a,1,1,1,t,0,true:b:", KEY)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_excerpt_shows_nothing_that_a_terminal_would_obey() -> None:
    error = AnnotationError(KEY, "reason", "remedy", "\x1b[2J\u202e\n" * 100)
    assert error.excerpt.isprintable()
    assert len(error.excerpt) <= LONGEST + 3


def test_a_short_excerpt_is_whole() -> None:
    assert AnnotationError(KEY, "reason", "remedy", "abc").excerpt == "'abc'"
    assert str(AnnotationError(KEY, "reason", "remedy", "abc")) == f"{KEY}: reason: 'abc'; remedy"
    assert str(AnnotationError(KEY, "reason", "remedy")) == f"{KEY}: reason; remedy"


def _without_fraction(value: object) -> object:
    """Locks are written to the second."""
    if isinstance(value, nodelock.NodeLock):
        return nodelock.NodeLock(value.at.replace(microsecond=0), value.namespace, value.name)
    return value
