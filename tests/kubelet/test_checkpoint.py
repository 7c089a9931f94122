"""Kubelet's checkpoint file and its checksum (kubelet-deviceplugin.md 2.7)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.testing.kubelet import Checkpoint, CorruptCheckpointError, Entry, checkpoint

GPU_RESPONSE = bytes(
    [10, 31, 10, 22, *b"NVIDIA_VISIBLE_DEVICES", 18, 5, *b"GPU-1"],
)
WORKED = Checkpoint(
    [Entry("uid-1", "main", "nvidia.com/gpu", {"-1": ("GPU-9",), "0": ("GPU-1",)}, GPU_RESPONSE)],
    {"nvidia.com/gpu": ["GPU-1", "GPU-2"]},
)
WORKED_TEXT = (
    '{"Data":{"PodDeviceEntries":[{"PodUID":"uid-1","ContainerName":"main","ResourceName":'
    '"nvidia.com/gpu","DeviceIDs":{"-1":["GPU-9"],"0":["GPU-1"]},"AllocResp":'
    '"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBUdQVS0x"}],"RegisteredDevices":{"nvidia.com/gpu":'
    '["GPU-1","GPU-2"]}},"Checksum":2631989558}'
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (WORKED, 2631989558),
        (Checkpoint(None, {"a.com/x": ["d1"], "b.com/y": []}), 1393222072),
        (Checkpoint([], {}), 2932075448),
        (Checkpoint(None, None), 1944006890),
    ],
)
def test_the_checksum_is_kubelets(content: Checkpoint, expected: int) -> None:
    assert checkpoint.checksum(content) == expected


def test_the_file_is_the_worked_example_byte_for_byte() -> None:
    assert checkpoint.to_json(WORKED) == WORKED_TEXT


def test_the_worked_example_reads_back() -> None:
    assert checkpoint.to_json(checkpoint.from_json(WORKED_TEXT)) == WORKED_TEXT


names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
)
entries = st.builds(
    Entry,
    names,
    names,
    names,
    st.dictionaries(
        st.integers(-1, 40).map(str), st.lists(names, max_size=3).map(tuple), max_size=3
    ),
    st.none() | st.binary(max_size=20),
)
checkpoints = st.builds(
    Checkpoint,
    st.none() | st.lists(entries, max_size=3),
    st.none() | st.dictionaries(names, st.lists(names, max_size=3), max_size=3),
)


@given(checkpoints)
def test_every_content_survives_writing_and_reading(content: Checkpoint) -> None:
    read = checkpoint.from_json(checkpoint.to_json(content))
    assert read.registered == content.registered
    assert (read.entries is None) == (content.entries is None)
    assert list(read.entries or []) == list(content.entries or [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"Data":{}}',
        WORKED_TEXT.replace("GPU-9", "GPU-8"),
        WORKED_TEXT.replace("2631989558", "2631989559"),
        WORKED_TEXT.replace('{"-1":["GPU-9"],"0":["GPU-1"]}', '["GPU-9","GPU-1"]'),
    ],
)
def test_what_is_not_kubelets_is_refused(text: str) -> None:
    with pytest.raises(CorruptCheckpointError):
        checkpoint.from_json(text)


def test_a_write_leaves_one_file_and_a_read_of_none_is_none(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None
    checkpoint.write(tmp_path, WORKED)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE_NAME]
    assert checkpoint.to_json(checkpoint.read(tmp_path) or Checkpoint(None, None)) == WORKED_TEXT


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(tmp_path, WORKED)

    def fail(descriptor: int) -> None:
        raise OSError("disk")

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(OSError, match="disk"):
        checkpoint.write(tmp_path, Checkpoint([], {}))
    assert json.loads((tmp_path / checkpoint.FILE_NAME).read_text())["Checksum"] == 2631989558
