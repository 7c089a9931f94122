"""Which contents of the library are known, by checksum.

A name proves nothing: any file can be called ``libvgpu.so.v2.8.0``. What this program knows lies
beside it as data; an operator adds the libraries of the images that the cluster pulls by digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from deviceplugin.hook.elf import MACHINES
from deviceplugin.userfiles import UserFileError, read_file

__all__ = ["Library", "Manifest", "ManifestError", "Release", "load", "packaged", "parse"]

DATA = "libraries.json"
MAX_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_KEYS = frozenset({"version", "machine", "sha256", "image"})


class ManifestError(ValueError):
    """A manifest that cannot be used: the text names file, place, reason and remedy."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of HAMi: the HAMi-core `commit` in it and the `layout` of its shared region, empty
    where nobody has looked (hami-nvidia-node.md 6.0).
    """

    version: str
    commit: str
    layout: str


@dataclass(frozen=True, slots=True)
class Library:
    """One known content: `machine` as ``uname -m`` names it, `image` where it comes from."""

    version: str
    machine: str
    sha256: str
    image: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known; of two entries for one content the first counts."""

    libraries: tuple[Library, ...] = ()
    releases: tuple[Release, ...] = ()

    def library(self, sha256: str) -> Library | None:
        """The library with this content."""
        return next((item for item in self.libraries if item.sha256 == sha256), None)

    def release(self, version: str) -> Release | None:
        """The release of this version."""
        return next((item for item in self.releases if item.version == version), None)

    def with_libraries(self, libraries: Iterable[Library]) -> Manifest:
        """The same, knowing these as well."""
        return Manifest((*libraries, *self.libraries), self.releases)


def packaged() -> Manifest:
    """What this version of the program knows."""
    text = resources.files(__package__).joinpath(DATA).read_text(encoding="utf-8")
    document = json.loads(text)
    releases = tuple(Release(**item) for item in document["releases"])
    return Manifest(parse(text, DATA), releases)


def load(files: Iterable[Path] = ()) -> Manifest:
    """What this program knows, and what these files add. Raises `ManifestError`."""
    known = packaged()
    for path in files:
        try:
            text = read_file(path, MAX_BYTES)
        except UserFileError as error:
            raise ManifestError(str(error)) from None
        known = known.with_libraries(parse(text.decode(errors="replace"), str(path)))
    return known


def parse(text: str, source: str) -> tuple[Library, ...]:
    """The libraries of a manifest. Raises `ManifestError`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ManifestError(f"{source}: not JSON") from None
    items = document.get("libraries") if isinstance(document, Mapping) else None
    if not isinstance(items, list):
        raise ManifestError(
            f'{source}: it has no list "libraries"; write {{"libraries": [{{"version": "v2.8.0", '
            '"machine": "x86_64", "sha256": "..."}]}'
        )
    return tuple(_library(item, f"{source}: libraries[{n}]") for n, item in enumerate(items))


def _library(item: Any, place: str) -> Library:
    if not isinstance(item, Mapping) or not all(isinstance(v, str) for v in item.values()):
        raise ManifestError(f"{place}: write an object of texts")
    if unknown := sorted(set(item) - _KEYS):
        raise ManifestError(f"{place}: unknown {unknown[0]!r:.40}; known are {', '.join(_KEYS)}")
    library = Library(
        item.get("version", ""),
        item.get("machine", ""),
        item.get("sha256", ""),
        item.get("image", ""),
    )
    if not _VERSION.fullmatch(library.version):
        raise ManifestError(f"{place}: version {library.version!r:.40}; write for example v2.8.0")
    if library.machine not in MACHINES:
        raise ManifestError(
            f"{place}: machine {library.machine!r:.40}; write {' or '.join(MACHINES)}"
        )
    if not _SHA256.fullmatch(library.sha256):
        raise ManifestError(
            f"{place}: sha256 {library.sha256!r:.40}; write its 64 hexadecimal digits"
        )
    return library
