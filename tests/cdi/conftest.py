"""Small specifications for the tests, and files as other writers leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.cdi import ContainerEdits, Device, Spec

KIND = "vendor.com/device"


@pytest.fixture
def spec() -> Callable[..., Spec]:
    """A specification of a kind with a device per name, each with a variable naming it."""

    def make(*names: str, kind: str = KIND, **others: Any) -> Spec:
        devices = (Device(name, ContainerEdits(env=(f"NAME={name}",))) for name in names)
        return Spec(kind, tuple(devices), **others)

    return make


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write a file for a reader: edits by device name, below the temporary directory."""

    def write(place: str, devices: dict[str, Any], kind: str = KIND, **others: Any) -> Path:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
        data = {"cdiVersion": "1.1.0", "kind": kind, "devices": listed, **others}
        path.write_text(json.dumps(data))
        return path

    return write
