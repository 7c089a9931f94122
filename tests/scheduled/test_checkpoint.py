"""Kubelet's own file, read for evidence and never trusted to be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb
from deviceplugin.kubelet.checkpoint import FILE_NAME, Checkpoint
from deviceplugin.testing.kubelet import checkpoint as kubelets

ANSWER = pb.ContainerAllocateResponse(
    envs={"VISIBLE": "GPU-1"}, annotations={"grant.deviceplugin.dev/v": "uid-1/main"}
)


def written(directory: Path, *containers: str) -> None:
    entries = tuple(
        kubelets.Entry(
            "uid-1", name, "a.b/c", {"0": ("x",), "-1": ("y",)}, ANSWER.SerializeToString()
        )
        for name in containers
    )
    kubelets.write(directory, kubelets.Checkpoint(entries, {}))


def test_entries_carry_uid_ids_of_all_numa_nodes_and_the_answer(tmp_path: Path) -> None:
    written(tmp_path, "main")
    (entry,) = Checkpoint(tmp_path).entries() or ()
    assert (entry.pod_uid, entry.container, entry.resource) == ("uid-1", "main", "a.b/c")
    assert entry.ids == {"x", "y"}
    assert entry.response().annotations == {"grant.deviceplugin.dev/v": "uid-1/main"}
    assert entry.mentions("GPU-1")
    assert not entry.mentions("GPU-2")


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    written(tmp_path, "main")
    checkpoint = Checkpoint(tmp_path)
    assert len(checkpoint.entries() or ()) == 1
    written(tmp_path, "main", "other")
    assert len(checkpoint.entries() or ()) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"Data":{}}', '{"Data":{"PodDeviceEntries":[1]}}']
)
def test_what_cannot_be_read_is_no_evidence(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    assert Checkpoint(tmp_path).entries() is None


def test_no_file_is_no_evidence_and_a_node_without_allocations_is_some(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path).entries() is None
    kubelets.write(tmp_path, kubelets.Checkpoint(None, None))
    assert Checkpoint(tmp_path).entries() == ()


def test_an_answer_that_is_no_message_says_nothing(tmp_path: Path) -> None:
    entry = kubelets.Entry("u", "c", "a.b/c", {"-1": ("x",)}, b"\xff" * 30)
    kubelets.write(tmp_path, kubelets.Checkpoint((entry,), {}))
    (read,) = Checkpoint(tmp_path).entries() or ()
    assert read.response() == pb.ContainerAllocateResponse()
