"""Which of the installed libraries somebody still needs.

A mapped file is only the first reason. A container that is restarted gets the mounts that kubelet
remembers of it, so a file may go only when no process maps it, no container has it mounted, kubelet
has promised it to nobody and no CDI specification names it. Whatever cannot be looked at counts
as needed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.kubelet.checkpoint import FILE_NAME, Checkpoint

__all__ = ["Witnesses", "holders"]

KTHREADD = "kthreadd"
"""Process 2 of every Linux host; no other PID namespace has it."""


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Where to look, as seen by this process: the host's ``/proc``, kubelet's directory of device
    plugins and the directories of CDI specifications.
    """

    proc: Path
    plugin_dir: Path
    cdi_dirs: tuple[Path, ...]

    @staticmethod
    def below(root: Path) -> Witnesses:
        """At their usual places of a host."""
        return Witnesses(
            root / "proc",
            root / "var/lib/kubelet/device-plugins",
            (root / "etc/cdi", root / "var/run/cdi"),
        )


def holders(files: Mapping[str, int], where: Witnesses) -> dict[str, str]:
    """Why each of these files must stay; those that nobody needs are not in the answer.

    `files` are inodes by name. Blocking: looks at every process of the host.
    """
    if not files:
        return {}
    if blind := _blind(where):
        return dict.fromkeys(files, blind)
    found: dict[str, str] = {}
    for name, reason in (*_promised(files, where), *_processes(files, where.proc)):
        found.setdefault(name, reason)
    return found


def _blind(where: Witnesses) -> str:
    try:
        if (where.proc / "2/comm").read_text().strip() != KTHREADD:
            return f"{where.proc} does not show the host's processes"
    except OSError:
        return f"{where.proc} does not show the host's processes"
    if not where.plugin_dir.is_dir():
        return f"kubelet's directory {where.plugin_dir} cannot be seen from here"
    return ""


def _promised(files: Mapping[str, int], where: Witnesses) -> Iterator[tuple[str, str]]:
    if (where.plugin_dir / FILE_NAME).exists():
        entries = Checkpoint(where.plugin_dir).entries()
        if entries is None:
            reason = f"kubelet's record {where.plugin_dir / FILE_NAME} cannot be read"
            yield from ((name, reason) for name in files)
        for entry in entries or ():
            for name in files:
                if entry.mentions(name):
                    yield name, f"promised to container {entry.container} of pod {entry.pod_uid}"
    for directory in where.cdi_dirs:
        yield from _specified(files, directory)


def _specified(files: Mapping[str, int], directory: Path) -> Iterator[tuple[str, str]]:
    try:
        paths = sorted(directory.iterdir())
        for path in paths:
            text = path.read_bytes() if path.is_file() else b""
            for name in files:
                if name.encode() in text:
                    yield name, f"named by {path}"
    except FileNotFoundError:
        return
    except OSError as error:
        yield from ((name, f"{directory} cannot be read: {error.strerror}") for name in files)


def _processes(files: Mapping[str, int], proc: Path) -> Iterator[tuple[str, str]]:
    """By inode alone: some file systems tell a process another device number than ``stat``."""
    inodes = {f" {inode} ".encode(): name for name, inode in files.items()}
    namespaces: set[str] = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            mapped = (process / "maps").read_bytes()
            mounted = b""
            if (namespace := _namespace(process)) not in namespaces:
                mounted = (process / "mountinfo").read_bytes()
                namespaces.add(namespace)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        except OSError as error:
            if error.errno == errno.EINVAL:
                continue  # it has no mounts any more: it is about to end
            reason = f"process {process.name} cannot be looked into: {error.strerror}"
            yield from ((name, reason) for name in files)
            return
        for pattern, name in inodes.items():
            if pattern in mapped:
                yield name, f"mapped by process {process.name}"
            if name.encode() in mounted:
                yield name, f"mounted for process {process.name}"


def _namespace(process: Path) -> str:
    try:
        return str((process / "ns/mnt").readlink())
    except OSError:
        return process.name
