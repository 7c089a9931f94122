"""The host's files, read below the root at which this process sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["HostFiles"]

MAX_BYTES = 4 << 20
MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Absolute paths of the host. A symbolic link is followed as if `root` were ``/``, so that an
    absolute one means what it means on the host.
    """

    root: Path

    def place(self, path: str) -> Path | None:
        """Where this process finds it; None for what is not there or not to be seen."""
        pending = list(PurePosixPath(path).parts)[::-1]
        here: list[str] = []
        links = 0
        try:
            while pending:
                part = pending.pop()
                if part == "/":
                    here = []
                elif part == "..":
                    here = here[:-1]
                elif (current := self.root.joinpath(*here, part)).is_symlink():
                    links += 1
                    if links > MOST_LINKS:
                        return None
                    pending.extend(PurePosixPath(current.readlink()).parts[::-1])
                else:
                    here.append(part)
            found = self.root.joinpath(*here)
            return found if found.exists() else None
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether it is there."""
        return self.place(path) is not None

    def read(self, path: str) -> str | None:
        """A text; None where there is none that can be read. At most `MAX_BYTES`."""
        place = self.place(path)
        if place is None or not place.is_file():
            return None
        try:
            with place.open("rb") as file:
                return file.read(MAX_BYTES).decode(errors="replace")
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The whole number in a file of the kernel's."""
        text = (self.read(path) or "").strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 30 else None

    def names(self, path: str) -> tuple[str, ...]:
        """What is in a directory, sorted; nothing where there is none."""
        place = self.place(path)
        try:
            return tuple(sorted(item.name for item in place.iterdir())) if place else ()
        except OSError:
            return ()
