"""A host below a temporary directory, and libraries that are whole, cut short or another's."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deviceplugin.hook import install as installer
from deviceplugin.hook import manifest as manifests
from deviceplugin.hook.install import Outcome, Source
from deviceplugin.hook.manifest import Library, Manifest
from deviceplugin.hook.status import Status, verify
from deviceplugin.hook.usage import Witnesses
from deviceplugin.testing.elf import shared_object

MACHINE = "x86_64"
TARGET = "/usr/local/vgpu"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Host:
    """`known` are contents that the manifest knows, by version."""

    root: Path
    source: Path
    known: dict[str, bytes] = field(default_factory=dict)
    now: float = 2e9

    @property
    def directory(self) -> Path:
        return self.root / TARGET.lstrip("/")

    @property
    def link(self) -> Path:
        return self.directory / "libvgpu.so"

    def manifest(self) -> Manifest:
        libraries = tuple(Library(v, MACHINE, sha256(data)) for v, data in self.known.items())
        return Manifest(libraries, manifests.packaged().releases)

    def offer(self, version: str, mark: str | None = None, *, known: bool = True) -> bytes:
        """The source directory holds this library and nothing else."""
        data = shared_object(mark or version)
        for path in self.source.iterdir():
            path.unlink()
        (self.source / f"libvgpu.so.{version}").write_bytes(data)
        if known:
            self.known[version] = data
        return data

    def take(self, *, allow_unknown: bool = False) -> Source:
        return installer.from_directory(
            self.source, MACHINE, self.manifest(), allow_unknown=allow_unknown
        )

    def install(self, *, dry_run: bool = False, allow_unknown: bool = False) -> Outcome:
        return installer.install(
            self.root,
            TARGET,
            self.take(allow_unknown=allow_unknown),
            self.manifest(),
            MACHINE,
            clock=lambda: self.now,
            dry_run=dry_run,
        )

    def age(self, seconds: float = 3600) -> None:
        """So long ago was the current library made current."""
        then = self.now - seconds
        os.utime(self.link, (then, then), follow_symlinks=False)

    def status(self) -> Status:
        return verify(self.root, TARGET, self.manifest(), MACHINE)

    def witnesses(self) -> Witnesses:
        return Witnesses.below(self.root)

    def process(self, pid: int, maps: str = "", mountinfo: str = "") -> Path:
        place = self.root / f"proc/{pid}"
        place.mkdir(exist_ok=True)
        (place / "comm").write_text("train\n")
        (place / "maps").write_text(maps)
        (place / "mountinfo").write_text(mountinfo)
        return place

    def remember(self, *entries: dict[str, object]) -> None:
        path = self.root / "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"
        path.write_text(json.dumps({"Data": {"PodDeviceEntries": list(entries)}, "Checksum": 1}))

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node whose processes, kubelet and CDI directories can be seen."""
    root = tmp_path / "host"
    for place in ("proc/2", "var/lib/kubelet/device-plugins", "var/run/cdi", "tmp", "usr/local"):
        (root / place).mkdir(parents=True)
    (root / "proc/2/comm").write_text("kthreadd\n")
    (root / "proc/2/maps").write_text("")
    (root / "proc/2/mountinfo").write_text("")
    source = tmp_path / "source"
    source.mkdir()
    return Host(root, source)
