"""Kubernetes quantities. The tables were checked against the API server's own parser."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.quantity import Format, Quantity, QuantityError

SUFFIXES = {
    **{letter: Fraction(1000) ** power for power, letter in enumerate("num", -3)},
    **{letter: Fraction(1000) ** power for power, letter in enumerate(["", *"kMGTPE"])},
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


@pytest.mark.parametrize(
    ("text", "value", "milli", "canonical"),
    [
        ("0", 0, 0, "0"),
        ("1", 1, 1000, "1"),
        ("+1", 1, 1000, "1"),
        ("-1.5", -2, -1500, "-1500m"),
        ("100m", 1, 100, "100m"),
        ("1500m", 2, 1500, "1500m"),
        ("1u", 1, 1, "1u"),
        ("1001u", 1, 2, "1001u"),
        ("1n", 1, 1, "1n"),
        ("0.0000000001", 1, 1, "1n"),
        ("1000", 1000, 1000000, "1k"),
        ("12000k", 12000000, 12000000000, "12M"),
        ("1Gi", 2**30, 2**30 * 1000, "1Gi"),
        ("1024Mi", 2**30, 2**30 * 1000, "1Gi"),
        ("1.5Gi", 1610612736, 1610612736000, "1536Mi"),
        ("1025Ki", 1049600, 1049600000, "1025Ki"),
        (".5Ki", 512, 512000, "512"),
        ("0.0001Ki", 1, 103, "102400u"),
        ("0.3Ki", 308, 307200, "307200m"),
        ("1.0001Ki", 1025, 1024103, "1024102400u"),
        ("0Gi", 0, 0, "0"),
        ("1.", 1, 1000, "1"),
        (".5", 1, 500, "500m"),
        ("00012", 12, 12000, "12"),
        ("1e3", 1000, 1000000, "1e3"),
        ("1E3", 1000, 1000000, "1e3"),
        ("1e5", 100000, 100000000, "100e3"),
        ("12e5", 1200000, 1200000000, "1200e3"),
        ("1e-9", 1, 1, "1e-9"),
        ("1e-20", 1, 1, "1e-9"),
        ("1E", 10**18, 10**21, "1E"),
        ("1e30", 10**30, 10**33, "1e30"),
        ("9223372036854775807Ki", 2**63 - 1, (2**63 - 1) * 1000, "9223372036854775807"),
        ("8Ei", 2**63 - 1, (2**63 - 1) * 1000, "9223372036854775807"),
        ("7Ei", 7 * 2**60, 7000 * 2**60, "7Ei"),
    ],
)
def test_reads_rounds_and_writes_like_the_api_server(
    text: str, value: int, milli: int, canonical: str
) -> None:
    quantity = Quantity.parse(text)
    assert (quantity.value(), quantity.milli(), str(quantity)) == (value, milli, canonical)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1K", "1ki", "1mi", "1Gi1", "1e", "1E-", "1.2.3", "--1", "1_000", "١", "x",
     "1GB", "0x10", "nan", "Ki", "-", ".", "e3", "1e1.5"],
)  # fmt: skip
def test_refuses_what_is_no_quantity_and_names_it(text: str) -> None:
    with pytest.raises(QuantityError, match="is not a quantity: write a number") as error:
        Quantity.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["1e1001", "1e99999999999999999999", "9" * 1001, "0." + "1" * 999])
def test_refuses_what_would_only_fill_memory(text: str) -> None:
    with pytest.raises(QuantityError, match=r"shorten it|write a smaller one"):
        Quantity.parse(text)


def test_an_exponent_far_below_zero_is_the_smallest_amount() -> None:
    assert Quantity.parse("1e-99999999").nano == 1
    assert Quantity.parse("-1e-99999999").nano == -1
    assert Quantity.parse("0e-99999999").nano == 0


def test_remembers_how_it_was_written() -> None:
    assert [Quantity.parse(text).format for text in ("1", "1Ki", "1e0")] == list(Format)
    assert Quantity.parse("1Gi") == Quantity.parse("1024Mi")


amounts = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    st.integers(0, 10**12),
    st.one_of(st.just(""), st.integers(0, 10**6).map(".{}".format)),
    st.sampled_from(list(SUFFIXES)),
)


@given(amounts)
def test_an_amount_is_its_digits_times_its_suffix_rounded_away_to_a_billionth(text: str) -> None:
    suffix = text.lstrip("+-0123456789.")
    exact = Fraction(text.removesuffix(suffix)) * SUFFIXES[suffix] * 10**9
    cut = Fraction((2**63 - 1) * 10**9)
    if suffix.endswith("i"):
        exact = max(-cut, min(cut, exact))
    nano = Quantity.parse(text).nano
    assert abs(exact) <= abs(nano) < abs(exact) + 1
    assert nano * exact >= 0


@given(
    st.one_of(
        amounts, st.builds("{}e{}".format, st.integers(-(10**6), 10**6), st.integers(-12, 40))
    )
)
def test_the_canonical_form_reads_back_as_the_same_amount(text: str) -> None:
    quantity = Quantity.parse(text)
    again = Quantity.parse(str(quantity))
    assert again.nano == quantity.nano
    assert str(again) == str(quantity)
    assert "." not in str(quantity)


@given(st.integers(-(10**30), 10**30), st.sampled_from(Format))
def test_every_quantity_survives_being_written(nano: int, form: Format) -> None:
    quantity = Quantity(nano, form)
    if abs(nano) <= (2**63 - 1) * 10**9 or form is not Format.BINARY:
        assert Quantity.parse(str(quantity)).nano == nano
    assert quantity.value() * 10**9 * (1 if nano >= 0 else -1) >= abs(nano)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        quantity = Quantity.parse(text)
    except QuantityError:
        return
    assert Quantity.parse(str(quantity)).nano == quantity.nano
