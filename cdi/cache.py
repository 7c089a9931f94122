"""What a runtime knows after reading its directories (cdi.md 2).

Directories come in rising priority. A device in two of them is the one of the higher; twice in the
same directory it is a conflict and gone altogether, even where a higher directory has it too. A
broken file hides nothing but itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """A device that can be injected, and the specification it comes from."""

    name: str
    device: Device
    origin: LoadedSpec


@dataclass(frozen=True, slots=True)
class Cache:
    """One reading of the directories. `errors` are kept per file."""

    specs: tuple[LoadedSpec, ...]
    devices: Mapping[str, LoadedDevice]
    errors: Mapping[Path, tuple[CDIError, ...]]

    def vendors(self) -> list[str]:
        """All vendors of readable files, sorted."""
        return sorted({loaded.spec.kind.partition("/")[0] for loaded in self.specs})

    def classes(self) -> list[str]:
        """All classes of readable files, sorted."""
        return sorted({loaded.spec.kind.partition("/")[2] for loaded in self.specs})


def read_spec(path: Path, *, newest: str = CURRENT) -> Spec:
    """The specification in a file. Raises `CDIError`, also for a file that cannot be read."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"cannot be read: {problem}", source=str(path)) from None
    return loads(text, str(path), yaml=path.suffix == ".yaml", newest=newest)


def load_directories(
    directories: Sequence[Path] = DEFAULT_DIRECTORIES, *, newest: str = CURRENT
) -> Cache:
    """Read all directories, lowest priority first; a missing one is empty."""
    specs: list[LoadedSpec] = []
    errors: dict[Path, tuple[CDIError, ...]] = {}
    for priority, directory in enumerate(directories):
        for path in _files(directory):
            try:
                specs.append(LoadedSpec(path, priority, read_spec(path, newest=newest)))
            except CDIError as problem:
                errors[path] = (problem,)
    return _resolve(specs, errors)


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(p for p in directory.iterdir() if p.suffix in EXTENSIONS and p.is_file())
    except OSError:
        return []


def _resolve(specs: list[LoadedSpec], errors: dict[Path, tuple[CDIError, ...]]) -> Cache:
    devices: dict[str, LoadedDevice] = {}
    conflicts: set[str] = set()
    for loaded in specs:
        for device in loaded.spec.devices:
            name = f"{loaded.spec.kind}={device.name}"
            other = devices.get(name)
            if other is not None and other.origin.priority == loaded.priority:
                conflicts.add(name)
                paths = (other.origin.path, loaded.path)
                rule = f'conflicting device (specs "{paths[0]}", "{paths[1]}")'
                for path in paths:
                    problem = error(rule, name, source=str(path))
                    errors[path] = (*errors.get(path, ()), problem)
            devices[name] = LoadedDevice(name, device, loaded)
    kept = {name: device for name, device in devices.items() if name not in conflicts}
    return Cache(tuple(specs), kept, errors)
