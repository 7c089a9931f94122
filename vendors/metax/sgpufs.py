"""sGPUs by the files of the kernel (metax-iluvatar-kunlunxin-hygon.md 1.4, 5.2). What these files
take is known from the vendor's strings alone and was never tried on hardware.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deviceplugin.vendor import DriverError
from deviceplugin.vendor.sysfs import BUS, on_host, read
from deviceplugin.vendors.metax.annotations import POLICIES

ALIAS = "dp-"
_INSTANCE = re.compile(r"sgpu([0-9]{1,3})")


def alias(holder: str, container: str, uuid: str) -> str:
    """By what an instance is found again."""
    text = f"{holder}/{container}/{uuid}".encode()
    return ALIAS + hashlib.sha256(text).hexdigest()[:12]


class SgpuFiles:
    """The sGPUs of a node. For one thread of one process, the probe's."""

    def __init__(self, root: str, *, dry_run: bool) -> None:
        self._devices = on_host(root, BUS)
        self._dry_run = dry_run

    def make(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The instance that a request describes, made if it is not there. Raises `DriverError`."""
        bdf, name = str(request["bdf"]), str(request["alias"])
        directory = self._devices / bdf / "sgpu"
        if not directory.is_dir():
            raise DriverError(
                f"{directory} is not there: enable sGPUs on the card with `mx-smi sgpu --enable`"
            )
        for number, path in self._instances(directory):
            if read(path / "alias") == name:
                return {"bdf": bdf, "number": number}
        policy = POLICIES.index(request["policy"])
        has = read(directory / "sched_class")
        taken = list(self._instances(directory))
        if taken and has != str(policy):
            raise DriverError(
                f"card {bdf} has sGPUs of policy {_policy(has)}, {request['policy']} is asked for: "
                "all of a card have one policy"
            )
        writes = [] if has == str(policy) else [(directory / "sched_class", str(policy))]
        writes.append((directory / "create", str(request["memory_mib"])))
        if self._dry_run:
            said = "; ".join(f"{value} to {path}" for path, value in writes)
            raise DriverError(f"a dry run (metax.sgpu): it would write {said}, and set its alias")
        return {"bdf": bdf, "number": self._create(directory, writes, name)}

    def tidy(self, held: Sequence[Mapping[str, str]], uuids: Mapping[str, str]) -> list[str]:
        """Remove instances of nobody in `held`; `uuids` are cards by their place. What was removed.
        While anybody is on his way or unknown, nothing is.
        """
        if self._dry_run or any(not holder["pod_uid"] for holder in held):
            return []
        removed = []
        for bdf, uuid in uuids.items():
            directory = self._devices / bdf / "sgpu"
            keep = {alias(h["pod_uid"], h["container"], uuid) for h in held}
            keep |= {alias(h["allocation"], "", uuid) for h in held}
            for number, path in list(self._instances(directory)):
                name = read(path / "alias")
                if name.startswith(ALIAS) and name not in keep:
                    (directory / "remove").write_text(str(number))
                    removed.append(f"sGPU {number} of {bdf}")
        return removed

    def policy(self, bdf: str) -> str:
        """The policy of a card's sGPUs; empty when it has none."""
        directory = self._devices / bdf / "sgpu"
        if not any(self._instances(directory)):
            return ""
        return _policy(read(directory / "sched_class"))

    def _create(self, directory: Path, writes: Sequence[tuple[Path, str]], name: str) -> int:
        before = {number for number, _ in self._instances(directory)}
        for path, value in writes:
            path.write_text(value)
        after = dict(self._instances(directory))
        new = sorted(after.keys() - before)
        if len(new) != 1:
            raise DriverError(f"{directory}/create made {len(new)} sGPUs instead of one; see dmesg")
        (after[new[0]] / "alias").write_text(name)
        return new[0]

    @staticmethod
    def _instances(directory: Path) -> Iterator[tuple[int, Path]]:
        try:
            entries = sorted(directory.iterdir())
        except OSError:
            return
        for path in entries:
            if match := _INSTANCE.fullmatch(path.name):
                yield int(match[1]), path


def _policy(number: str) -> str:
    return POLICIES[int(number)] if number in ("0", "1", "2") else ""
