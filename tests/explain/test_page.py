"""The page shows what the commands say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deviceplugin.cli.main import cli
from deviceplugin.explain.snapshot import write

PAGE = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
BLOCKS = re.findall(r"^```console\n\$ deviceplugin (.*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)

MANIFEST = """\
kind: Deployment
metadata: {name: serve, namespace: team}
spec:
  replicas: 6
  template:
    spec:
      containers:
        - name: main
          resources: {limits: {nvidia.com/gpu: 1, nvidia.com/gpumem: 6000}}
"""


def cluster(make: Any) -> Any:
    """Two nodes with eight cards, two with one, one without; most of it is in use."""
    taint = {"key": "team", "value": "infra", "effect": "NoSchedule"}
    nodes = [
        *(make.node(f"gpu-{n}", 4, 24576, "L4") for n in (1, 2)),
        make.node("gpu-3", 1, 81920, "A100", taints=[taint]),
        make.node("gpu-4", 1, 16384),
        make.node("cpu-1", 0),
    ]
    pods = [
        make.pod(f"run-{n}-{c}", 14000 + 1000 * c, 50, on=f"gpu-{n}", card=c)
        for n in (1, 2)
        for c in range(4)
    ]
    pods += [
        make.pod("old", 16000, 100, on="gpu-4"),
        make.pod("train-7", 20000, 50),
        make.pod("slow", 1000, 10, on="gpu-2", card=3, phase="allocating"),
    ]
    return make.snapshot(nodes, pods, [make.quota(gpumem="400000")])


@pytest.mark.parametrize(("command", "output"), BLOCKS, ids=[c for c, _ in BLOCKS])
def test_the_page_shows_what_is_said(
    make: Any,
    command: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    write(cluster(make), Path("cluster.json.gz"))
    Path("serve.yaml").write_text(MANIFEST)
    words = shlex.split(command)
    if words[0] == "explain":
        words += ["--snapshot", "cluster.json.gz"]
    said = CliRunner().invoke(cli, words, catch_exceptions=False).output
    assert said == output


def test_the_page_has_examples() -> None:
    assert {command.split()[0] for command, _ in BLOCKS} == {"explain", "simulate"}
