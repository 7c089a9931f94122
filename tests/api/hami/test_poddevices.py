"""What the containers of a pod get, as schedulers and agents of all generations write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.poddevices import (
    ContainerDevice,
    MigSlot,
    PodDevices,
    decode,
    decode_container,
    encode,
    encode_container,
    erase,
    of_type,
    owners,
    segments,
)
from deviceplugin.api.hami.text import LARGEST, MOST_CHARACTERS, MOST_ENTRIES

KEY = "hami.io/vgpu-devices-to-allocate"
A = ContainerDevice("GPU-a", "NVIDIA", 3000, 30)
B = ContainerDevice("GPU-b", "NVIDIA", 500, 3)


@pytest.mark.parametrize(
    ("text", "containers"),
    [
        ("", ()),
        (";", ((),)),
        (";;;", ((), (), ())),
        ("GPU-a,NVIDIA,3000,30:;", ((A,),)),
        ("GPU-a,NVIDIA,3000,30:GPU-b,NVIDIA,500,3:;", ((A, B),)),
        ("GPU-a,NVIDIA,3000,30:;;GPU-b,NVIDIA,500,3:;", ((A,), (), (B,))),
        (";;GPU-b,NVIDIA,500,3:;", ((), (), (B,))),
        (";GPU-b,NVIDIA,500,3:;", ((), (B,))),
        ("GPU-a[1-0],NVIDIA,5120,14:;", ((ContainerDevice("GPU-a", "NVIDIA", 5120, 14, MigSlot(1, 0)),),)),
        ("GPU-9366[1-2],NVIDIA,10240,28:;", ((ContainerDevice("GPU-9366", "NVIDIA", 10240, 28, MigSlot(1, 2)),),)),
        (";DCU-TR3A380008110601,DCU,2000,15:;", ((), (ContainerDevice("DCU-TR3A380008110601", "DCU", 2000, 15),))),
        ("A1B2,Ascend910B4,8192,0:;;", ((ContainerDevice("A1B2", "Ascend910B4", 8192, 0),), ())),
        ("GPU-1,Metax-SGPU,4096,60:;", ((ContainerDevice("GPU-1", "Metax-SGPU", 4096, 60),),)),
        ("XPU-0000-03-00.0,XPU,24576,25:XPU-0000-05-00.0,XPU,24576,25:;", ((ContainerDevice("XPU-0000-03-00.0", "XPU", 24576, 25), ContainerDevice("XPU-0000-05-00.0", "XPU", 24576, 25)),)),
    ],
)  # fmt: skip
def test_what_peers_write_is_read_and_written_back_to_the_byte(
    text: str, containers: PodDevices
) -> None:
    assert decode(text, KEY) == containers
    assert encode(containers, KEY) == text


@pytest.mark.parametrize(
    ("text", "containers"),
    [
        ("GPU-a,NVIDIA,3000,30", ((A,),)),  # nothing ended
        ("GPU-a,NVIDIA,3000,30:;GPU-b,NVIDIA,500,3", ((A,), (B,))),
        (":;GPU-a,NVIDIA,3000,30:", ((), (A,))),  # another type left out by an older encoder
        ("::GPU-a,NVIDIA,3000,30::;", ((A,),)),
        ("GPU-a,NVIDIA,3000,30,new,newer:;", ((A,),)),  # fields of a newer version
        (",,0,0:;GPU-a,NVIDIA,3000,30:;", ((), (A,))),  # version 2.4 says "none" so
        ("GPU-a,NVIDIA,+3000,0030:;", ((A,),)),
    ],
)
def test_other_ways_to_say_the_same_are_read(text: str, containers: PodDevices) -> None:
    assert decode(text, KEY) == containers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("GPU-a:;", "a device of 1 fields"),
        ("GPU-a,NVIDIA,3000:;", "a device of 3 fields"),
        ("GPU-a,NVIDIA,3000,30: ;", "a device of 1 fields"),
        ("GPU-a,NVIDIA,x,30:;", "memory is no number"),
        ("GPU-a,NVIDIA,,30:;", "memory is no number"),
        ("GPU-a,NVIDIA,3e3,30:;", "memory is no number"),
        ("GPU-a,NVIDIA,٣,30:;", "memory is no number"),
        ("GPU-a,NVIDIA, 1,30:;", "memory is no number"),
        ("GPU-a,NVIDIA,-1,30:;", "memory is no number"),
        ("GPU-a,NVIDIA,2147483648,30:;", "memory is no number"),
        ("GPU-a,NVIDIA,1," + "9" * 5000 + ":;", "cores is no number"),
        ("GPU-a[,NVIDIA,1,1:;", "geometry is no number"),
        ("GPU-a[],NVIDIA,1,1:;", "geometry is no number"),
        ("GPU-a[1],NVIDIA,1,1:;", "position is no number"),
        ("GPU-a[1-0,NVIDIA,1,1:;", "no slot of a card"),
        ("GPU-a[1-0]x,NVIDIA,1,1:;", "position is no number"),
        ("GPU-a[x-0],NVIDIA,1,1:;", "geometry is no number"),
        ("GPU-a[1-x],NVIDIA,1,1:;", "position is no number"),
        ("GPU-a[1-0-0],NVIDIA,1,1:;", "position is no number"),
        ("GPU-a[1--1],NVIDIA,1,1:;", "position is no number"),
        ("GPU-a[1--0],NVIDIA,1,1:;", "no slot of a card"),
        ("GPU-a[+1-0],NVIDIA,1,1:;", "no slot of a card"),
        ("GPU-a[01-0],NVIDIA,1,1:;", "no slot of a card"),
        ("GPU]-a[1-0],NVIDIA,1,1:;", "a name with one of ,:;[]"),
        ("GPU-a],NVIDIA,1,1:;", "a name with one of ,:;[]"),
        ("[1-0],NVIDIA,1,1:;", "a device without uuid"),
        ("GPU-a,NVIDIA,1,1:;\n", "control characters"),
        ("GPU-\x00,NVIDIA,1,1:;", "control characters"),
        ("GPU-\ud800,NVIDIA,1,1:;", "control characters"),
        ("a" * (MOST_CHARACTERS + 1), "262145 characters, of 262144 allowed"),
        (";" * (MOST_ENTRIES + 1), "10001 entries, of 10000 allowed"),
        (":" * (MOST_ENTRIES + 1), "10001 entries, of 10000 allowed"),
    ],
)
def test_what_is_wrong_is_told_with_place_and_reason(text: str, reason: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        decode(text, KEY)
    assert caught.value.annotation == KEY
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "device",
    [
        ContainerDevice("", "NVIDIA", 1, 1),
        ContainerDevice("a,b", "NVIDIA", 1, 1),
        ContainerDevice("a:b", "NVIDIA", 1, 1),
        ContainerDevice("a", "N;", 1, 1),
        ContainerDevice("a[1-0]", "NVIDIA", 1, 1),
        ContainerDevice("a\n", "NVIDIA", 1, 1),
        ContainerDevice("a", "NVIDIA", -1, 1),
        ContainerDevice("a", "NVIDIA", 1, LARGEST + 1),
        ContainerDevice("a", "NVIDIA", 1, 1, MigSlot(-1, 0)),
    ],
)
def test_what_no_peer_could_read_is_not_written(device: ContainerDevice) -> None:
    with pytest.raises(AnnotationError, match=KEY):
        encode([[device]], KEY)


def test_an_error_says_which_device_of_which_container_it_is() -> None:
    with pytest.raises(AnnotationError, match="container 3: device 2: memory is no number"):
        decode("GPU-a,NVIDIA,1,1:;;GPU-a,NVIDIA,1,1:GPU-b,NVIDIA,x,1:;", KEY)


def test_one_container_alone() -> None:
    assert encode_container([A, B], KEY) == "GPU-a,NVIDIA,3000,30:GPU-b,NVIDIA,500,3:"
    assert decode_container("GPU-a,NVIDIA,3000,30:GPU-b,NVIDIA,500,3:", KEY) == (A, B)
    assert decode_container("", KEY) == ()


def test_a_semicolon_inside_one_container_is_refused() -> None:
    with pytest.raises(AnnotationError):
        decode_container("GPU-a,NVIDIA,3000,30:;", KEY)


def test_devices_of_other_types_are_left_out_and_positions_stay() -> None:
    npu = ContainerDevice("NPU-0", "Ascend910B4", 8192, 0)
    assert of_type(((npu, A), (npu,), (B,)), "NVIDIA") == ((A,), (), (B,))
    assert of_type(((A,),), "nvidia") == ((),)


def test_an_erased_container_leaves_the_others_in_their_places() -> None:
    containers = decode("GPU-a,NVIDIA,3000,30:;;GPU-b,NVIDIA,500,3:;", KEY)
    assert segments(containers) == (0, 2)
    after = erase(containers, 0)
    assert encode(after, KEY) == ";;GPU-b,NVIDIA,500,3:;"
    assert encode(erase(after, 2), KEY) == ";;;"


@pytest.mark.parametrize(
    ("text", "init", "regular", "expected"),
    [
        ("a;", "", "x", (0,)),
        ("a;;b;", "", "x.x", (0, 2)),
        # a writer that drops empty containers: order tells
        ("a;b;", "", "x.x", (0, 2)),
        # two vendors, padded in front by version 2.8: order tells
        (";;a;", "", ".x", (1,)),
        # version 2.9: init containers first
        ("i;a;", "x", "x", (0, 1)),
        ("i;;a;", "x", ".x", (0, 2)),
        # version 2.8 gives nothing to init containers
        ("a;", "x", "x", (1,)),
        (";a;", "x", ".x", (2,)),
        ("a;b;", "xx", "xx", (2, 3)),
        # neither count fits: position, of all containers if there are as many
        (";a;", "", "xxx", (1,)),
        (";a;;", "x", "xx", (1,)),
        (";a;", "x", "xxx", (2,)),
        (";;;", "", "xxx", ()),
        ("", "", "", ()),
    ],
)
def test_devices_find_their_containers(
    text: str, init: str, regular: str, expected: tuple[int, ...]
) -> None:
    containers = tuple((A,) if part else () for part in text.split(";")[:-1])
    asking = ([each == "x" for each in init], [each == "x" for each in regular])
    assert owners(containers, *asking, KEY) == expected


@pytest.mark.parametrize(
    ("text", "init", "regular"), [(";;a;", "", "xx"), ("a;;;;", ".", "xx"), (";a;", "xx", ".")]
)
def test_devices_for_a_container_that_the_pod_does_not_have_are_refused(
    text: str, init: str, regular: str
) -> None:
    containers = tuple((A,) if part else () for part in text.split(";")[:-1])
    with pytest.raises(AnnotationError, match="devices by position"):
        owners(containers, [each == "x" for each in init], [each == "x" for each in regular], KEY)


names = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=",:;[]"),
    min_size=1,
    max_size=20,
)
amounts = st.integers(0, LARGEST)
devices = st.builds(
    ContainerDevice,
    names,
    names,
    amounts,
    amounts,
    st.none() | st.builds(MigSlot, amounts, amounts),
)
pods = st.lists(st.lists(devices, max_size=3).map(tuple), max_size=5).map(tuple)


@given(pods)
def test_reading_gives_what_was_written(containers: PodDevices) -> None:
    assert decode(encode(containers, KEY), KEY) == containers


@given(pods)
def test_each_container_ends_and_each_device_ends(containers: PodDevices) -> None:
    text = encode(containers, KEY)
    assert text.count(";") == len(containers)
    assert text.count(":") == sum(map(len, containers))


@given(pods, st.data())
def test_popping_in_order_serves_each_owner_once(
    containers: PodDevices, data: st.DataObject
) -> None:
    """However an agent writes back what is left: with empty containers or without."""
    asks = [bool(devices) for devices in containers]
    split = data.draw(st.integers(0, len(asks)))
    keeps = data.draw(st.booleans())
    expected = owners(containers, asks[:split], asks[split:], KEY)
    assert expected == segments(containers)
    left, served = containers, []
    while segments(left):
        served.append(expected[len(segments(containers)) - len(segments(left))])
        left = erase(left, segments(left)[0])
        if not keeps:
            left = ((), *(devices for devices in left if devices))
        left = decode(encode(left, KEY), KEY)
    assert tuple(served) == expected
