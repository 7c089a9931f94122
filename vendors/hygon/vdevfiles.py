"""The files of virtual DCUs below the host's root: made whole, found again, removed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deviceplugin.vendor import DriverError
from deviceplugin.vendors.hygon.configuration import Configuration
from deviceplugin.vendors.hygon.vdev import ExhaustedError, Vdev, allocated, parsed, part

CONTAINER_FILE = "vdev0.conf"
UNFINISHED = ".making-"

YOUNG_SECONDS = 600.0
"""A directory younger than this may wait for a container that nobody names yet."""


class VdevFiles:
    """All virtual DCUs of a node. For one thread of one process, the probe's."""

    def __init__(
        self, root: str, config: Configuration, now: Callable[[], float] = time.time
    ) -> None:
        self._directory = Path(root) / config.vdev_root.lstrip("/")
        self._copies = Path(root) / config.exporter_root.lstrip("/")
        self._host_path, self._now = config.vdev_root, now

    def all(self) -> dict[str, Vdev]:
        """By the name of their directories."""
        try:
            names = [entry.name for entry in self._directory.iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return {}
        return {name: vdev for name in sorted(names) if (vdev := parsed(name)) is not None}

    def make(self, request: Mapping[str, Any]) -> str:
        """The host's path of the directory that a request describes: that of before where it is the
        same, else a new one. Raises `DriverError` and `OSError`.
        """
        found = self.all()
        holder, container = part(request["holder"]), part(request["container"])
        card, units = int(request["card"]), int(request["units"])
        for name, vdev in found.items():
            if (vdev.holder, vdev.container, vdev.card) != (holder, container, card):
                continue
            wanted = vdev.file(request["address"], request["memory_mib"], 0)
            if vdev.mask.bit_count() == units and self._says(name) == wanted:
                self._copy(vdev, request)
                return f"{self._host_path}/{name}"
            self._remove(name, vdev)
        others = [vdev for name, vdev in self.all().items()]
        try:
            made = allocated(holder, container, card, units, int(request["of"]), others)
        except ExhaustedError as error:
            raise DriverError(
                f"no virtual DCU can be made on {request['uuid']}: {error}; wait for a container "
                f"to end, or remove what is left over in {self._host_path}"
            ) from None
        self._write(made, request)
        return f"{self._host_path}/{made.name}"

    def tidy(self, held: Sequence[Mapping[str, str]]) -> list[str]:
        """Remove those of nobody in `held`; what was removed. While a holder's pod is unknown,
        nothing is.
        """
        if any(holder["pod"] and not holder["pod_uid"] for holder in held):
            return []
        known = {part(holder[key]) for holder in held for key in ("pod_uid", "allocation")}
        unnamed = any(not holder["pod"] and not holder["pod_uid"] for holder in held)
        removed = []
        for name, vdev in self.all().items():
            if vdev.holder in known:
                continue
            age = self._now() - (self._directory / name).stat().st_mtime
            if unnamed and age < YOUNG_SECONDS:
                continue
            self._remove(name, vdev)
            removed.append(f"virtual DCU {vdev.vdev} of card {vdev.card}, of {vdev.holder}")
        return removed

    def _write(self, vdev: Vdev, request: Mapping[str, Any]) -> None:
        """Whole or not at all: the directory gets its name when all is in it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        making = self._directory / f"{UNFINISHED}{vdev.vdev}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        making.chmod(0o777)
        file = making / CONTAINER_FILE
        file.write_text(vdev.file(request["address"], request["memory_mib"], 0))
        self._copy(vdev, request)
        making.rename(self._directory / vdev.name)

    def _copy(self, vdev: Vdev, request: Mapping[str, Any]) -> None:
        text = vdev.file(request["address"], request["memory_mib"], vdev.card)
        copy = self._copies / f"vdev{vdev.vdev}.conf"
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)

    def _says(self, name: str) -> str:
        """Tenants may write there: anything may stand in it, also a link."""
        path = self._directory / name / CONTAINER_FILE
        try:
            return "" if path.is_symlink() else path.read_text(errors="replace")[:4096]
        except OSError:
            return ""

    def _remove(self, name: str, vdev: Vdev) -> None:
        (self._copies / f"vdev{vdev.vdev}.conf").unlink(missing_ok=True)
        shutil.rmtree(self._directory / name)
