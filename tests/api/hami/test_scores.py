"""Link scores between a node's cards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.scores import PairScores, decode, encode
from deviceplugin.api.hami.text import LARGEST

GOLDEN = '[{"uuid":"GPU-0","score":{"GPU-1":50,"GPU-2":20}},{"uuid":"GPU-1","score":{"GPU-0":50}}]'


def test_the_golden_text_is_read_and_written_back_to_the_byte() -> None:
    cards = decode(GOLDEN)
    assert cards == (
        PairScores("GPU-0", {"GPU-1": 50, "GPU-2": 20}),
        PairScores("GPU-1", {"GPU-0": 50}),
    )
    assert encode(cards) == GOLDEN


def test_a_card_that_is_alone_has_no_scores() -> None:
    assert encode([PairScores("GPU-0", {})]) == '[{"uuid":"GPU-0"}]'
    assert decode('[{"uuid":"GPU-0"}]') == (PairScores("GPU-0", {}),)


def test_other_cards_stand_in_order() -> None:
    assert encode([PairScores("a", {"c": 1, "b": 2})]) == '[{"uuid":"a","score":{"b":2,"c":1}}]'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("null", "not a list"),
        ("{}", "not a list"),
        ("[3]", "not an object"),
        ('[{"score":{}}]', "a card without uuid"),
        ('[{"uuid":"a","score":[]}]', "score is not an object"),
        ('[{"uuid":"a","score":{"b":1.5}}]', "a score that is no number"),
        ('[{"uuid":"a","score":{"b":true}}]', "a score that is no number"),
        ('[{"uuid":"a","score":{"b":null}}]', "a score that is no number"),
        ('[{"uuid":"a","score":{"b":99999999999}}]', "a score that is no number"),
        ('[{"uuid":"a","score":{"\\u0001":1}}]', "control characters"),
        ('[{"uuid":"a\\n"}]', "control characters"),
    ],
)
def test_what_is_wrong_is_told_with_place_and_reason(text: str, reason: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        decode(text)
    assert caught.value.annotation == "hami.io/node-nvidia-score"
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "card",
    [
        PairScores("", {}),
        PairScores("a\n", {}),
        PairScores("a", {"b": -1}),
        PairScores("a", {"b": LARGEST + 1}),
    ],
)
def test_what_no_peer_could_read_is_not_written(card: PairScores) -> None:
    with pytest.raises(AnnotationError):
        encode([card])


uuids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)


@given(
    st.lists(
        st.builds(PairScores, uuids, st.dictionaries(uuids, st.integers(0, LARGEST), max_size=5)),
        max_size=5,
    )
)
def test_reading_gives_what_was_written(cards: list[PairScores]) -> None:
    assert decode(encode(cards)) == tuple(cards)
    assert encode(decode(encode(cards))) == encode(cards)
