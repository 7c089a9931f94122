"""The files of virtual DCUs below the host's root: made whole, found again, removed.

Tenants may write into their directories, so nothing there is read or followed; what is in use is
known by the directories' names, and which card by the copies, that only the host reaches.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deviceplugin.vendor import DriverError
from deviceplugin.vendor.sysfs import read
from deviceplugin.vendors.hygon.configuration import Configuration
from deviceplugin.vendors.hygon.vdev import ExhaustedError, Vdev, allocated, parsed, part

CONTAINER_FILE = "vdev0.conf"
ASIDE = ".deviceplugin-"
"""Begins the names of what is not whole yet, or not any more."""

_COPY = re.compile(r"vdev([0-9]{1,3})\.conf")
_ADDRESS = re.compile(r"PciBusId: ([0-9A-Fa-f:.]+)\n")


class VdevFiles:
    """All virtual DCUs of a node. For one thread of one process, the probe's."""

    def __init__(self, root: str, config: Configuration) -> None:
        self._directory = Path(root) / config.vdev_root.lstrip("/")
        self._copies = Path(root) / config.exporter_root.lstrip("/")
        self._host_path, self._host_copies = config.vdev_root, config.exporter_root

    def all(self) -> dict[str, Vdev]:
        """By the name of their directories."""
        return {
            name: replace(vdev, address=self._address(vdev))
            for name in self._names()
            if (vdev := parsed(name)) is not None
        }

    def make(self, request: Mapping[str, Any]) -> str:
        """The host's path of the directory that a request describes: that of before, its file
        written anew, or where the request is another, a new one.

        Raises `DriverError` and `OSError`.
        """
        holder, container = part(request["holder"]), part(request["container"])
        card, address = int(request["card"]), str(request["address"])
        others = self.all()
        for name, vdev in list(others.items()):
            if (vdev.holder, vdev.container) != (holder, container):
                continue
            if not vdev.is_on(card, address):
                continue
            if vdev.mask.bit_count() == request["units"]:
                return self._written(name, vdev, request)
            self._remove(name, others.pop(name))
        apart = {part(other) for other in request["apart"]}
        beside = [
            vdev
            for vdev in others.values()
            if vdev.is_on(card, address) and not (vdev.holder == holder and vdev.container in apart)
        ]
        numbers = {vdev.vdev for vdev in others.values()} | set(self._copied())
        try:
            made = allocated(
                holder, container, card, request["units"], request["of"], beside, numbers
            )
        except ExhaustedError as error:
            raise DriverError(
                f"no virtual DCU can be made on {request['uuid']}: {error}; wait for a container "
                f"to end, or remove what is left over in {self._host_path} and {self._host_copies}"
            ) from None
        return self._written(made.name, made, request)

    def tidy(self, held: Sequence[Mapping[str, str]]) -> list[str]:
        """Remove those of nobody in `held`; what was removed, or why not. While a holder's pod is
        unknown, nothing is.
        """
        if any(holder["pod"] and not holder["pod_uid"] for holder in held):
            return []
        known = {part(holder[key]) for holder in held for key in ("pod_uid", "allocation")}
        told = []
        for name, vdev in self.all().items():
            if vdev.holder in known:
                continue
            what = f"virtual DCU {vdev.vdev} of card {vdev.card}, of {vdev.holder}"
            try:
                self._remove(name, vdev)
            except OSError as error:
                told.append(f"{what} stays: {error}")
            else:
                told.append(what)
        for rest in self._directory.glob(f"{ASIDE}*"):
            _clear(rest)
        return told

    def _names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self._directory.iterdir() if entry.is_dir())
        except FileNotFoundError:
            return []

    def _copied(self) -> Iterator[int]:
        """The numbers of all copies: those that no directory of ours has are somebody else's."""
        for path in self._copies.glob("vdev*.conf"):
            if match := _COPY.fullmatch(path.name):
                yield int(match[1])

    def _copy(self, vdev: Vdev) -> Path:
        return self._copies / f"vdev{vdev.vdev}.conf"

    def _address(self, vdev: Vdev) -> str:
        """The place of its card, which stays while cards are numbered anew; empty if unknown."""
        match = _ADDRESS.match(read(self._copy(vdev)) + "\n")
        return match[1].lower() if match else ""

    def _written(self, name: str, vdev: Vdev, request: Mapping[str, Any]) -> str:
        """Its path, once all of it is there. The directory comes first and gets its name when its
        file is in it: a copy without a directory would look like somebody else's.
        """
        address, memory, card = request["address"], request["memory_mib"], int(request["card"])
        text = vdev.file(address, memory, 0)
        directory = self._directory / name
        if directory.is_dir():
            _put(directory / CONTAINER_FILE, text)
        else:
            self._directory.mkdir(parents=True, exist_ok=True)
            making = Path(tempfile.mkdtemp(prefix=ASIDE, dir=self._directory))
            making.chmod(0o777)
            _put(making / CONTAINER_FILE, text)
            making.rename(directory)
        self._copies.mkdir(parents=True, exist_ok=True)
        _put(self._copy(vdev), vdev.file(address, memory, card))
        return f"{self._host_path}/{name}"

    def _remove(self, name: str, vdev: Vdev) -> None:
        """Its units are free as soon as its name is gone, however long its content takes."""
        self._copy(vdev).unlink(missing_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=self._directory))
        (self._directory / name).rename(aside / "vdev")
        _clear(aside)


def _put(path: Path, text: str) -> None:
    """Replace what is there, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        _clear(path)
    with tempfile.NamedTemporaryFile("w", prefix=ASIDE, dir=path.parent, delete=False) as fresh:
        fresh.write(text)
    made = Path(fresh.name)
    made.chmod(0o644)
    made.replace(path)


def _clear(path: Path) -> None:
    """Remove a directory; a tenant may have nested it deeper than can be followed at once, and what
    is left is tried again at the next `tidy`.
    """
    try:
        shutil.rmtree(path, ignore_errors=True)
    except RecursionError:
        return
