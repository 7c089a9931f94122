"""The scheduler's benchmark runs to its end and tells every figure; how fast is not asked here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = (
    "filter, p50 / p99",
    "without the PATCH",
    "of a pod that fits nowhere",
    "CPU of the scheduler a filter",
    "bind, p50 / p99",
    "webhook, p50 / p99",
    "memory, ready",
    "8 pods, 4 nodes, with locks",
    "8 pods, 4 nodes, deferred",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_measures_the_real_process_on_a_tiny_cluster_and_draws_what_it_found(
    tmp_path: Path,
) -> None:
    drawn, kept = tmp_path / "figures.svg", tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.scheduler", "--tiny"]
    done = subprocess.run(
        [*command, f"--picture={drawn}", f"--json={kept}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = {line[:38].strip(): line[38:] for line in done.stdout.splitlines()}
    for what in FIGURES:
        assert re.search(r"\d", told[what].partition("target")[0]), what
    calls = [line for line in done.stdout.splitlines() if line.startswith("API calls a bind")]
    assert calls
    for line in calls:
        found, _, most = line.rpartition("target <= ")
        assert 0 < float(found.split()[-1]) <= float(most)
    assert told["drift after 100 random events"].split()[0] == "0"
    (figures,) = json.loads(kept.read_text())
    assert (figures["nodes"], figures["pods"]) == (3, 10)
    assert len(figures["without"][0]) == len(figures["filters"][0]) > 0
    for whole, without in zip(figures["filters"][0], figures["without"][0], strict=True):
        assert 0 < without < whole, "every filter that found a node wrote to its pod"
    assert ET.fromstring(drawn.read_text()).tag.endswith("svg")
