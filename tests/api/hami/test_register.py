"""The node's devices: goldens of peers, and round trips of everything that can be said."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.register import NodeDevice, decode, encode, encode_legacy
from deviceplugin.api.hami.scores import PairScores
from deviceplugin.api.hami.text import LARGEST, MOST_CHARACTERS, MOST_ENTRIES

A100 = NodeDevice(
    uuid="GPU-11111111-2222-3333-4444-555555555555",
    count=10,
    memory=81559,
    cores=100,
    type="NVIDIA A100-SXM4-80GB",
    healthy=True,
    mode="hami-core",
)
SECOND = NodeDevice(
    uuid="GPU-66666666-7777-8888-9999-000000000000",
    count=10,
    memory=81559,
    cores=100,
    type="NVIDIA A100-SXM4-80GB",
    healthy=True,
    numa=1,
    index=1,
    mode="hami-core",
)
TWO_GPUS = '[{"id":"GPU-11111111-2222-3333-4444-555555555555","count":10,"devmem":81559,"devcore":100,"type":"NVIDIA A100-SXM4-80GB","mode":"hami-core","health":true,"devicepairscore":{}},{"id":"GPU-66666666-7777-8888-9999-000000000000","index":1,"count":10,"devmem":81559,"devcore":100,"type":"NVIDIA A100-SXM4-80GB","numa":1,"mode":"hami-core","health":true,"devicepairscore":{}}]'
V100 = '[{"id":"GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec","count":10,"devmem":32768,"devcore":100,"type":"NVIDIA-Tesla V100-PCIE-32GB","mode":"hami-core","health":true,"devicepairscore":{}}]'
ASCEND = '[{"id":"1A2B","count":4,"devmem":65536,"devcore":20,"type":"Ascend910B3","health":true,"custominfo":{"NetworkID":0},"devicepairscore":{}},{"id":"5E6F","index":1,"count":4,"devmem":65536,"devcore":20,"type":"Ascend910B3","custominfo":{"NetworkID":0},"devicepairscore":{}}]'
XPU = '[{"id":"XPU-0000-03-00.0","count":4,"devmem":98304,"devcore":100,"type":"XPU","health":true},{"id":"XPU-0000-05-00.0","index":1,"count":4,"devmem":98304,"devcore":100,"type":"XPU","health":true}]'
DCU = "DCU-TR3A380008110601,4,65520,100,DCU-K100_AI,0,true,0,hami:DCU-TPYX300018090901,4,65520,100,DCU-K100_AI,0,true,1,hami:"
P4 = "GPU-ebe7c3f7-303d-558d-435e-99a160631fe4,10,7680,100,NVIDIA-Tesla P4,0,true,1,hami-core:"


def test_two_gpus_as_version_2_8_writes_them() -> None:
    assert encode([A100, SECOND]) == TWO_GPUS
    assert decode(TWO_GPUS) == (A100, SECOND)


@pytest.mark.parametrize("text", [TWO_GPUS, V100, ASCEND, "[]"])
def test_what_peers_write_is_written_back_to_the_byte(text: str) -> None:
    assert encode(decode(text)) == text


def test_vendor_facts_are_carried() -> None:
    first, second = decode(ASCEND)
    assert first.custom == {"NetworkID": 0}
    assert (first.healthy, second.healthy, second.index) == (True, False, 1)


def test_a_list_without_pair_scores_is_read() -> None:
    first, second = decode(XPU)
    assert (first.uuid, first.mode, first.pair_scores) == ("XPU-0000-03-00.0", "", None)
    assert second.index == 1


@pytest.mark.parametrize("text", [DCU, P4])
def test_the_older_form_is_written_back_to_the_byte(text: str) -> None:
    assert encode_legacy(decode(text)) == text


def test_the_oldest_form_has_no_index_and_no_mode() -> None:
    (device,) = decode("GPU-a,10,7680,100,NVIDIA-Tesla P4,1,false:")
    assert (device.index, device.mode, device.numa, device.healthy) == (0, "hami-core", 1, False)


def test_no_devices_in_the_older_form_are_no_devices() -> None:
    assert decode(":") == ()


def test_the_same_devices_are_read_from_both_forms() -> None:
    assert decode(encode_legacy([A100, SECOND])) == decode(encode([A100, SECOND]))


def test_blanks_that_json_allows_are_read() -> None:
    assert decode(json.dumps(json.loads(TWO_GPUS), indent=2)) == (A100, SECOND)
    assert decode(f"\n {TWO_GPUS}") == (A100, SECOND)


def test_what_is_zero_or_empty_is_left_out_and_health_too() -> None:
    device = NodeDevice(uuid="a", count=0, memory=0, cores=0, type="", healthy=False)
    assert encode([device]) == '[{"id":"a","devicepairscore":{}}]'


def test_everything_at_once_in_go_s_order() -> None:
    device = NodeDevice(
        uuid="a",
        index=1,
        count=2,
        memory=3,
        cores=4,
        type="t",
        numa=5,
        mode="mig",
        healthy=True,
        vendor="v",
        custom={"z": 1, "a": [True, None, 0.5]},
        pair_scores=PairScores("a", {"c": 2, "b": 1}),
    )
    assert encode([device]) == (
        '[{"id":"a","index":1,"count":2,"devmem":3,"devcore":4,"type":"t","numa":5,"mode":"mig",'
        '"health":true,"devicevendor":"v","custominfo":{"a":[true,null,0.5],"z":1},'
        '"devicepairscore":{"uuid":"a","score":{"b":1,"c":2}}}]'
    )


def test_characters_are_escaped_as_go_does() -> None:
    device = NodeDevice(
        uuid="a", count=0, memory=0, cores=0, type='<é>&"\\\u2028\u2029', healthy=False
    )
    text = encode([device])
    assert r'"type":"\u003cé\u003e\u0026\"\\\u2028\u2029"' in text
    assert decode(text) == (device,)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (-0.0, "-0"), (0.1, "0.1"), (100.0, "100"), (1e20, "100000000000000000000"),
        (1e21, "1e+21"), (0.000001, "0.000001"), (1e-7, "1e-7"), (1.5e-9, "1.5e-9"),
        (-2.5e300, "-2.5e+300"), (5e-324, "5e-324"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_go_writes_them(value: float, text: str) -> None:
    device = NodeDevice(
        uuid="a", count=0, memory=0, cores=0, type="", healthy=False, custom={"n": value}
    )
    assert f'"custominfo":{{"n":{text}}}' in encode([device])


def test_unknown_fields_are_ignored() -> None:
    assert decode('[{"id":"a","migtemplate":[[{"Name":"1g"}]],"migProfiles":[],"new":{"x":[1]}}]')


def test_vendor_facts_may_be_sixteen_levels_deep() -> None:
    facts = '{"n":' * 16 + "1" + "}" * 16
    (device,) = decode(f'[{{"id":"a","custominfo":{facts}}}]')
    assert facts in encode([device])
    with pytest.raises(AnnotationError, match="more than 16 levels"):
        decode(f'[{{"id":"a","custominfo":{{"n":{facts}}}}}]')


def test_what_was_read_cannot_be_changed() -> None:
    (device,) = decode('[{"id":"a","custominfo":{"n":{"m":[1]}}}]')
    assert device.custom == {"n": {"m": (1,)}}
    assert isinstance(device.custom, MappingProxyType)
    assert isinstance(device.custom["n"], MappingProxyType)
    assert hash(device)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "neither a JSON list nor devices ended by :"),
        ("", "neither a JSON list nor devices ended by :"),
        ("null", "neither a JSON list nor devices ended by :"),
        ('{"id":"a"}', "a device of 1 fields"),
        ("a,b,c:", "a device of 3 fields"),
        ("a,1,1,1,t,0,true,0:", "a device of 8 fields"),
        ("a,1,1,1,t,0,true,0,m,x:", "a device of 10 fields"),
        ("a,1,1,1,t,0,true:x:", "a device of 1 fields"),
        ("a,x,1,1,t,0,true:", "count is no number"),
        ("a,1,,1,t,0,true:", "memory is no number"),
        ("a,1,1,1_0,t,0,true:", "cores is no number"),
        ("a,1,1,-1,t,0,true:", "cores is no number"),
        ("a,2147483648,1,1,t,0,true:", "count is no number"),
        ("a,1,1,1,t,-2,true:", "numa is no number"),
        ("a,1,1,1,t,0,yes:", "health is neither true nor false"),
        ("a,1,1,1,t,0,true,-1,m:", "index is no number"),
        (",1,1,1,t,0,true:", "a device without id"),
        ("a\n,1,1,1,t,0,true:", "control characters"),
        ("a[0-1],1,1,1,t,0,true:", "an id with one of ,:;[]"),
        ("[", "not JSON"),
        ('[{"id":"a","heAlth":true}]', "a name in the wrong case"),
        ('[{"ID":"a"}]', "a name in the wrong case"),
        ('[{"id":"a","devicepairſcore":{}}]', "a name in the wrong case"),
        ('[{"id":"a","devicepairscore":{"UUID":"a"}}]', "a name in the wrong case"),
        ("[1]", "not an object"),
        ("[null]", "not an object"),
        ('[{"id":1}]', "id is not text"),
        ('[{"id":""}]', "a device without id"),
        ('[{"count":1}]', "a device without id"),
        ('[{"id":"0000:03:00.0"}]', "an id with one of ,:;[]"),
        ('[{"id":"a","count":1.0}]', "count is not a whole number"),
        ('[{"id":"a","count":true}]', "count is not a whole number"),
        ('[{"id":"a","count":"1"}]', "count is not a whole number"),
        ('[{"id":"a","count":2147483648}]', "a number out of range"),
        ('[{"id":"a","devmem":-1}]', "a number out of range"),
        ('[{"id":"a","health":1}]', "health is not true or false"),
        ('[{"id":"a","type":"\\u0000"}]', "control characters"),
        ('[{"id":"a","type":"\\ud800"}]', "control characters"),
        ('[{"id":"a","custominfo":[]}]', "custominfo is not an object"),
        ('[{"id":"a","custominfo":{"n":NaN}}]', "not JSON"),
        ('[{"id":"a","custominfo":{"n":1e999}}]', "a number too large"),
        ('[{"id":"a","custominfo":{"n":' + "9" * 400 + "}}]", "a number too large"),
        ('[{"id":"a","custominfo":{"n\\u0007":1}}]', "control characters"),
        ('[{"id":"a","custominfo":' + '{"n":' * 20 + "1" + "}" * 20 + "}]", "more than 16 levels"),
        ('[{"id":"a","devicepairscore":{"uuid":"a","score":{"b":-1}}}]', "a score that is no number"),
        ('[{"id":"a","devicepairscore":{"score":{"b":1}}}]', "a card without uuid"),
        ("[" * 100_000, "not JSON"),
        ("[" + "9" * 5000 + "]", "not JSON"),
        ("x" * (MOST_CHARACTERS + 1), "262145 characters, of 262144 allowed"),
        ("[" + "{}," * MOST_ENTRIES + "{}]", "10001 entries, of 10000 allowed"),
        ("x:" * (MOST_ENTRIES + 1), "10001 entries, of 10000 allowed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_place_and_reason(text: str, reason: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        decode(text, "hami.io/node-dcu-register")
    error = caught.value
    assert reason in error.reason, error
    assert error.annotation == "hami.io/node-dcu-register"
    assert str(error).startswith("hami.io/node-dcu-register: ")
    assert error.remedy in str(error)


@pytest.mark.parametrize(
    "text",
    ['[{"id":"a"},{"id":"b","count":"many"}]', "a,1,1,1,t,0,true:b,many,1,1,t,0,true:"],
)
def test_an_error_says_which_device_it_is(text: str) -> None:
    with pytest.raises(AnnotationError, match="device 2: count is") as caught:
        decode(text)
    assert "many" in caught.value.excerpt


@pytest.mark.parametrize(
    "wrong",
    [
        {"uuid": ""}, {"uuid": "a:b"}, {"uuid": "a,b"}, {"uuid": "a;b"}, {"uuid": "a[0-1]"}, {"uuid": "]"},
        {"uuid": "a\x7f"}, {"type": "\x00"}, {"mode": "\n"}, {"vendor": "\x85"}, {"count": -1},
        {"memory": LARGEST + 1}, {"cores": -5}, {"index": -1}, {"numa": -2},
    ],
)  # fmt: skip
def test_what_no_peer_could_read_is_not_written(wrong: dict[str, object]) -> None:
    fields = {"uuid": "a", "count": 1, "memory": 1, "cores": 1, "type": "t", "healthy": True}
    device = NodeDevice(**{**fields, **wrong})  # type: ignore[arg-type]
    for write in (encode, encode_legacy):
        with pytest.raises(AnnotationError):
            write([device])


@pytest.mark.parametrize("field", ["type", "mode"])
def test_the_older_form_refuses_what_only_json_can_hold(field: str) -> None:
    fields = {"uuid": "a", "count": 1, "memory": 1, "cores": 1, "type": "t", "healthy": True}
    device = NodeDevice(**{**fields, field: "a,b"})  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match="use the JSON form"):
        encode_legacy([device])
    assert decode(encode([device])) == (device,)


def test_more_devices_than_an_annotation_holds_are_not_written() -> None:
    devices = [
        NodeDevice(uuid=f"{index}", count=0, memory=0, cores=0, type="t" * 200, healthy=True)
        for index in range(2000)
    ]
    with pytest.raises(AnnotationError, match="characters"):
        encode(devices)
    with pytest.raises(AnnotationError, match="characters"):
        encode_legacy(devices)


# Round trips.

shown = st.characters(exclude_categories=("Cc", "Cs"))
texts = st.text(shown, max_size=20)
uuids = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=",:;[]"),
    min_size=1,
    max_size=40,
)
amounts = st.integers(0, LARGEST)
# "-0" is read as 0, which adding 0 does to it too
jsons = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=6,
)
devices = st.builds(
    NodeDevice,
    uuid=uuids,
    count=amounts,
    memory=amounts,
    cores=amounts,
    type=texts,
    healthy=st.booleans(),
    numa=st.integers(-1, LARGEST),
    index=amounts,
    mode=texts,
    vendor=texts,
    custom=st.dictionaries(texts, jsons, max_size=3),
    pair_scores=st.none()
    | st.builds(PairScores, uuids, st.dictionaries(uuids, amounts, max_size=3)),
)
plain = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=",:"), max_size=20
)
legacy = st.builds(
    NodeDevice,
    uuid=uuids,
    count=amounts,
    memory=amounts,
    cores=amounts,
    type=plain,
    healthy=st.booleans(),
    numa=st.integers(-1, LARGEST),
    index=amounts,
    mode=plain,
)


@given(st.lists(devices, max_size=4))
def test_reading_gives_what_was_written(written: list[NodeDevice]) -> None:
    text = encode(written)
    assert decode(text) == tuple(written)
    assert encode(decode(text)) == text


@given(st.lists(legacy, min_size=1, max_size=4))
def test_reading_the_older_form_gives_what_was_written(written: list[NodeDevice]) -> None:
    text = encode_legacy(written)
    if not text.lstrip().startswith("["):
        assert decode(text) == tuple(written)
        assert encode_legacy(decode(text)) == text


@given(st.lists(devices, max_size=4))
def test_what_is_written_is_json_without_blanks(written: list[NodeDevice]) -> None:
    text = encode(written)
    assert len(json.loads(text)) == len(written)
    assert not any(character in text for character in "<>&\u2028\u2029")
