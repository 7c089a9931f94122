"""Containers with their directories and regions, below a root of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.monitor import MonitoredContainer, MonitoredDevice
from deviceplugin.testing.libvgpu import FakeRegion

MIB = 1 << 20
GPU = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "containers"
    path.mkdir()
    return path


@pytest.fixture
def container() -> Callable[..., MonitoredContainer]:
    """A container of its own pod, with 3000 MiB and 30 % of one GPU."""

    def make(number: int = 0, *devices: MonitoredDevice, **fields: Any) -> MonitoredContainer:
        uid = f"{number:08d}-0000-4000-8000-000000000000"
        name = fields.get("container", "main")
        defaults: dict[str, Any] = {
            "namespace": "default",
            "pod": f"pod-{number}",
            "pod_uid": uid,
            "container": name,
            "cache_dir": f"{uid}_{name}",
            "devices": devices or (MonitoredDevice(0, GPU, 3000, 30),),
        }
        return MonitoredContainer(**{**defaults, **fields})

    return make


@pytest.fixture
def directory(root: Path) -> Callable[..., Path]:
    """A container's directory as the runtime leaves it, with a region where one is given."""

    def make(owner: MonitoredContainer, region: FakeRegion | None = None) -> Path:
        path = root / owner.cache_dir
        path.mkdir(exist_ok=True)
        (path / "libvgpu.so").touch()
        if region is not None:
            region.write(path / "0b3e7a4c-0000-4000-8000-000000000000.cache")
        return path

    return make


@pytest.fixture
def region() -> Callable[..., FakeRegion]:
    """The region of such a container."""

    def make(**fields: Any) -> FakeRegion:
        return FakeRegion(**{"uuids": [GPU], "memory": [3000 * MIB], "cores": [30] * 16, **fields})

    return make


@pytest.fixture
def gpu() -> str:
    return GPU
