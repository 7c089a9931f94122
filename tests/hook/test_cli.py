"""The commands as people run them."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from deviceplugin.cli.main import cli


def run(host, *arguments: str) -> Result:
    manifest = host.source.parent / "manifest.json"
    libraries = [
        {"version": item.version, "machine": item.machine, "sha256": item.sha256}
        for item in host.manifest().libraries
    ]
    manifest.write_text(json.dumps({"libraries": libraries}))
    common = ["--host-root", str(host.root), "--machine", "x86_64", "--manifest", str(manifest)]
    return CliRunner().invoke(cli, ["hook", arguments[0], *common, *arguments[1:]])


def test_install_then_verify_then_list(host) -> None:
    host.offer("v2.8.0")
    done = run(host, "install", "--source", str(host.source))
    assert done.exit_code == 0, done.output
    assert "done: link libvgpu.so to libvgpu.so.v2.8.0-" in done.output
    again = run(host, "install", "--source", str(host.source))
    assert again.output.startswith("nothing to change")
    right = run(host, "verify")
    assert (right.exit_code, right.stderr) == (0, "")
    assert "version v2.8.0, known" in right.output
    listed = run(host, "list").output.splitlines()
    assert listed[1].startswith("*  libvgpu.so.v2.8.0-")
    document = json.loads(run(host, "list", "-o", "json").output)
    assert [item["known"] for item in document["installed"]] == [True]


def test_a_refusal_ends_with_1_and_a_remedy(host) -> None:
    host.offer("v2.8.0", known=False)
    done = run(host, "install", "--source", str(host.source))
    assert done.exit_code == 1
    assert "--allow-unknown" in done.stderr
    assert not host.directory.exists()


def test_verify_tells_every_trouble_with_its_remedy(host) -> None:
    done = run(host, "verify")
    assert done.exit_code == 1
    assert "it is not there" in done.stderr
    host.offer("v2.8.0")
    run(host, "install", "--source", str(host.source))
    (host.directory / "ld.so.preload").unlink()
    found = json.loads(run(host, "verify", "-o", "json").output)
    assert found["right"] is False
    assert [item["slug"] for item in found["troubles"]] == ["preload-missing"]


def test_a_dry_run_says_what_would_be_done_as_json(host) -> None:
    host.offer("v2.8.0")
    done = run(host, "install", "--source", str(host.source), "--dry-run", "-o", "json")
    document = json.loads(done.output)
    assert document["dryRun"] is True
    assert any("link libvgpu.so" in step for step in document["steps"])
    assert not host.directory.exists()


def test_a_wrong_manifest_and_a_relative_target_are_refused(host, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[]")
    assert run(host, "verify", "--manifest", str(wrong)).exit_code == 1
    assert run(host, "verify", "--target", "vgpu").exit_code == 2
    assert run(host, "verify", "--target", "/").exit_code == 2


def test_an_empty_host_lists_nothing(host) -> None:
    assert run(host, "list").output.startswith("no library in /usr/local/vgpu")
