"""A stranger's distribution, with its own folder called api, is installed and serves."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.testing.conformance.checks import CHECKS

EXAMPLE = Path(__file__).parents[2] / "examples" / "vendor-plugin"
PAGE = Path(__file__).parents[2] / "docs" / "writing-a-vendor.md"
UNCHECKED, OWN = 3, 3
"""Promises about what a plain vendor does not have, and the example's own tests."""

RESOURCE = "acme.example.com/accelerator"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example installed from its wheel."""
    source = tmp_path_factory.mktemp("source") / "vendor"
    shutil.copytree(EXAMPLE, source)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def test_its_own_suite_passes_where_it_is_installed(site: Path, tmp_path: Path) -> None:
    """In a repository that has its own folder called api: conformance, and a pod that gets a share
    of a card.
    """
    repository = tmp_path / "repository"
    shutil.copytree(EXAMPLE, repository)
    shutil.rmtree(repository / "src")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": f"{repository}:{site}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(CHECKS) - UNCHECKED + OWN} passed, {UNCHECKED} skipped" in done.stdout


def test_the_page_shows_what_the_example_does() -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert (EXAMPLE / "tests/test_kubelet.py").read_text() in blocks
    assert f"{len(CHECKS) - UNCHECKED} promises kept, 0 broken, {UNCHECKED} not checked" in page


async def test_its_resource_is_registered_from_a_repository_with_its_own_api(
    node: Any, site: Path
) -> None:
    dev = node.root / "host" / "dev"
    dev.mkdir(parents=True)
    for name in ("acme0", "acme1"):
        (dev / name).touch()
    flags = {
        "host-root": node.root / "host",
        "kubelet-socket": node.kubelet.kubelet_socket,
        "pod-resources-socket": node.kubelet.pod_resources_socket,
        "cdi-dir": node.cdi_dir,
        "run-dir": node.root / "run",
        "http-listen": "",
    }
    script = Path(sysconfig.get_path("scripts")) / "deviceplugin"
    agent = await asyncio.create_subprocess_exec(
        str(script),
        "serve",
        *(f"--{name}={value}" for name, value in flags.items()),
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": f"{EXAMPLE}:{site}"},
    )
    try:
        await node.kubelet.wait_registered(RESOURCE, 20)
        assert node.kubelet.capacity()[RESOURCE] == 8
    finally:
        agent.terminate()
        assert await asyncio.wait_for(agent.wait(), 10) == 0
    assert node.kubelet.findings == []
