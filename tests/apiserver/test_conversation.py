"""The fake API server says what a real one said."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from deviceplugin.apiserver.client import Api
from deviceplugin.testing.apiserver import ApiServer

HERE = Path(__file__).parent
TRANSCRIPTS = sorted((HERE / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_fake_answers_as_the_real_one_did(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("conversation", HERE / "conversation.py")
    assert spec
    assert spec.loader
    conversation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conversation)
    with ApiServer() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "config")))
        said = list(conversation.transcript(Api()))
    told = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert said == told


def test_there_is_a_transcript() -> None:
    assert TRANSCRIPTS
