"""Keeps our specifications in the CDI directory, whatever happens to that directory.

The directory is usually a tmpfs that a reboot empties while kubelet remembers its allocations, and
nobody else ever removes a transient file (cdi.md 6.7). So the store knows what must be there and
writes again what is not.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from deviceplugin.cdi import parse_qualified_name, remove_spec, spec_file_name, write_spec
from deviceplugin.cdi.model import Spec
from deviceplugin.injection.render import CDI_VENDOR, allocation_kind

MANIFEST_FILE = "cdi-inventories.json"
"""Below the agent's run directory: the names of the inventories that it wrote."""


class SpecStore:
    """The specifications of this agent in one directory. Blocking, but for `stands` and `holds`;
    call it off the loop, from any thread.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Path | None = None,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """`manifest` is the file that lists the inventories that were written, because their names
        alone do not tell whose they are. Once `leaving`, nothing is written any more: what is
        missing has been taken away for good.
        """
        self.directory, self._manifest = directory, manifest
        self._leaving = leaving
        self._lock = threading.RLock()
        """What is wanted and what is there change together: a file that is put while the directory
        is swept or restored belongs to neither."""
        self._wanted: dict[str, Spec] = {}
        self._inventory: dict[str, set[str]] = {}
        self._unheld: dict[str, set[str]] = {}
        """What the last sweep found without a holder, by vendor."""

    def put_inventory(self, vendor: str, specs: Sequence[Spec]) -> None:
        """Write a vendor's inventory and remove the kinds that it no longer has.

        Raises `deviceplugin.cdi.CDIError` for an invalid specification and `OSError` when the
        directory cannot be written; nothing is removed then.
        """
        names = {spec_file_name(spec.kind): spec for spec in specs}
        with self._lock:
            for name, spec in names.items():
                self._write(name, spec)
            for stale in self._inventory.get(vendor, set()) - names.keys():
                self._remove(stale)
            if self._inventory.get(vendor) != names.keys():
                self._inventory[vendor] = set(names)
                self._list_inventories()

    def put(self, vendor: str, allocation: str, spec: Spec) -> None:
        """Write the specification of one allocation. Raises as `put_inventory`."""
        with self._lock:
            self._unheld.get(vendor, set()).discard(allocation)
            self._write(spec_file_name(allocation_kind(vendor), allocation), spec)

    def stands(self, vendor: str, allocation: str, spec: Spec) -> bool:
        """Whether `put` would find nothing to do; then the next sweep spares it, as after `put`.
        Does not wait, so it may be asked on the loop: False while another thread is at work.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            stands = self._is_written(spec_file_name(allocation_kind(vendor), allocation), spec)
            if stands:
                self._unheld.get(vendor, set()).discard(allocation)
            return stands
        finally:
            self._lock.release()

    def withdraw(self, vendor: str, allocation: str) -> None:
        """Remove the specification of one allocation, whoever wrote it. Raises `OSError`."""
        with self._lock:
            self._remove(spec_file_name(allocation_kind(vendor), allocation))

    def holds(self, vendor: str, allocation: str) -> bool:
        """Whether the file of an allocation is there, whoever wrote it."""
        return _is_file(self._path(vendor, allocation))

    def allocations(self, vendor: str) -> set[str]:
        """The allocations of a vendor that have a file, also those of an agent before us."""
        prefix = spec_file_name(allocation_kind(vendor)) + "_"
        return {path.stem.removeprefix(prefix) for path in self.directory.glob(f"{prefix}*.json")}

    def sweep(self, vendor: str, keep: Collection[str]) -> set[str]:
        """Remove the files of the allocations that this and the last sweep did not find in `keep`;
        answers which were removed.

        Kubelet lists a container only after Allocate was answered, and an init container never: a
        file that was written since the last sweep may be needed although nobody holds its ids.
        """
        with self._lock:
            unheld = self.allocations(vendor) - set(keep)
            gone = unheld & self._unheld.get(vendor, set())
            for allocation in gone:
                self._remove(spec_file_name(allocation_kind(vendor), allocation))
            self._unheld[vendor] = unheld - gone
        return gone

    def restore(self) -> list[str]:
        """Write again what is missing; answers the names. Raises as `put_inventory`."""
        with self._lock:
            missing = [n for n in self._wanted if not _is_file(self.directory / f"{n}.json")]
            if missing and self._leaving():
                return []
            for name in missing:
                write_spec(self.directory, self._wanted[name], name=name, fsync=False)
        return missing

    def _list_inventories(self) -> None:
        if self._manifest is None:
            return
        listed = sorted(name for names in self._inventory.values() for name in names)
        self._manifest.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._manifest.with_suffix(".tmp")
        temporary.write_text(json.dumps(listed))
        temporary.replace(self._manifest)

    def _path(self, vendor: str, allocation: str) -> Path:
        return self.directory / f"{spec_file_name(allocation_kind(vendor), allocation)}.json"

    def _is_written(self, name: str, spec: Spec) -> bool:
        return self._wanted.get(name) == spec and _is_file(self.directory / f"{name}.json")

    def _write(self, name: str, spec: Spec) -> None:
        if self._is_written(name, spec) or self._leaving():
            return
        write_spec(self.directory, spec, name=name, fsync=False)
        self._wanted[name] = spec

    def _remove(self, name: str) -> None:
        self._wanted.pop(name, None)
        remove_spec(self.directory, name)


def _is_file(path: Path) -> bool:
    """Whether a file of its own is there: runtimes overlook links, so a link is none."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def is_ours(name: str) -> bool:
    """Whether a qualified CDI name is one of an allocation of ours."""
    return parse_qualified_name(name).vendor == CDI_VENDOR
