"""What a runtime knows after reading its directories (cdi.md 2).

Directories come in rising priority. A device in two of them is the one of the higher; twice in the
same directory it is a conflict and gone altogether, even where a higher directory has it too. A
broken file hides nothing but itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deviceplugin.cdi.codec import loads
from deviceplugin.cdi.errors import CDIError, error
from deviceplugin.cdi.model import Device, Spec
from deviceplugin.cdi.versions import CURRENT

DEFAULT_DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
EXTENSIONS = (".json", ".yaml")


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A specification with its place; `priority` is the position of its directory."""

    path: Path
    priority: int
    spec: Spec


@dataclass(frozen=True, slots=True)
class LoadedDevice:
    """A device that can be injected, by its qualified name, and the file it comes from."""

    name: str
    device: Device
    origin: LoadedSpec


@dataclass(frozen=True, slots=True)
class Cache:
    """One reading of the directories: files, devices by qualified name, errors by path."""

    specs: tuple[LoadedSpec, ...]
    devices: Mapping[str, LoadedDevice]
    errors: Mapping[Path, tuple[CDIError, ...]]
    conflicts: frozenset[str]

    def vendors(self) -> list[str]:
        """All vendors of readable files, sorted."""
        return sorted({loaded.spec.kind.partition("/")[0] for loaded in self.specs})

    def classes(self) -> list[str]:
        """All classes of readable files, sorted."""
        return sorted({loaded.spec.kind.partition("/")[2] for loaded in self.specs})


def read_spec(path: Path, *, max_version: str = CURRENT) -> Spec:
    """The specification in a file. Raises `CDIError`, also for a file that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise _unreadable(path, problem) from None
    except UnicodeDecodeError:
        raise error("not UTF-8", source=str(path)) from None
    return loads(text, source=str(path), yaml=path.suffix == ".yaml", max_version=max_version)


def load_directories(
    directories: Iterable[Path] = DEFAULT_DIRECTORIES, *, max_version: str = CURRENT
) -> Cache:
    """Read all directories, lowest priority first; a missing one is empty.

    Nothing is raised: what cannot be read is in the `errors` of the result.
    """
    specs: list[LoadedSpec] = []
    errors: dict[Path, tuple[CDIError, ...]] = {}
    for priority, directory in enumerate(directories):
        try:
            paths = _files(directory)
        except OSError as problem:
            errors[directory] = (_unreadable(directory, problem),)
            continue
        for path in paths:
            try:
                specs.append(LoadedSpec(path, priority, read_spec(path, max_version=max_version)))
            except CDIError as problem:
                errors[path] = (problem,)
    return _resolved(specs, errors)


def _unreadable(path: Path, problem: OSError) -> CDIError:
    reason = (problem.strerror or str(problem)).lower()
    return error(f"cannot be read: {reason}", source=str(path))


def _files(directory: Path) -> list[Path]:
    """The files that readers look at, links included; a dangling one is an error when read."""
    try:
        found = [path for path in directory.iterdir() if path.suffix in EXTENSIONS]
    except FileNotFoundError:
        return []
    return sorted(path for path in found if path.is_file() or not path.exists())


def _resolved(specs: Sequence[LoadedSpec], errors: dict[Path, tuple[CDIError, ...]]) -> Cache:
    devices: dict[str, LoadedDevice] = {}
    conflicts: set[str] = set()
    for loaded in specs:
        for device in loaded.spec.devices:
            name = f"{loaded.spec.kind}={device.name}"
            other = devices.get(name)
            devices[name] = LoadedDevice(name, device, loaded)
            if other is not None and other.origin.priority == loaded.priority:
                conflicts.add(name)
                paths = (loaded.path, other.origin.path)
                rule = f'conflicting device "{name}" (specs "{paths[0]}", "{paths[1]}")'
                for path in paths:
                    errors[path] = (*errors.get(path, ()), error(rule, source=str(path)))
    kept = {name: device for name, device in devices.items() if name not in conflicts}
    return Cache(
        tuple(specs), MappingProxyType(kept), MappingProxyType(errors), frozenset(conflicts)
    )
