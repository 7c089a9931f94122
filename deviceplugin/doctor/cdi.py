"""CDI specifications: whether a runtime can read them and finds what they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from deviceplugin.cdi import Spec, load_directories
from deviceplugin.doctor.model import Finding, Group, Severity, Topic
from deviceplugin.doctor.scene import Scene

__all__ = ["GROUP", "CdiFacts"]

NAME = "cdi"
MOST = 5
"""Paths of one file that are listed."""

SPEC_INVALID = Topic(
    "cdi-spec-invalid",
    NAME,
    Severity.ERROR,
    "A CDI specification is broken.",
    "Runtimes overlook the whole file and only log it; containers that are given one of its "
    "devices end with unresolvable CDI devices.",
    "See `deviceplugin cdi validate FILE`. Ours is written again within half a minute when it is "
    "removed; another's comes from its own program (nvidia-ctk cdi generate).",
)
DEVICE_CONFLICT = Topic(
    "cdi-device-conflict",
    NAME,
    Severity.ERROR,
    "Two CDI files of one directory define the same device.",
    "Runtimes then give nobody that device.",
    "Remove the file of the program that should not be here.",
)
PATH_MISSING = Topic(
    "cdi-path-missing",
    NAME,
    Severity.ERROR,
    "A CDI specification names files that are not there.",
    "A container that is given such a device does not start: its device node, mount or hook is "
    "missing on the host. Usually the driver was updated, or its root is another one.",
    "Generate the specification anew; ours follows when the agent is restarted with the right "
    "--nvidia-driver-root.",
)
DIRECTORY_MISSING = Topic(
    "cdi-directory-missing",
    NAME,
    Severity.WARNING,
    "The directory for our CDI specifications does not exist.",
    "Devices are to be handed over by CDI and the agent has not written anything: it does not run, "
    "or has no devices, or another directory is mounted.",
    "Start the agent, and mount the directory into it (images/daemonset.yaml).",
)


@dataclass(frozen=True, slots=True)
class CdiFacts:
    """`broken` and `missing` are paths of files on the host with what is wrong there; `conflicts`
    are devices with the files that define them.
    """

    uses_cdi: bool
    cdi_dir: str
    present: bool
    broken: tuple[tuple[str, str], ...]
    conflicts: tuple[tuple[str, tuple[str, ...]], ...]
    missing: tuple[tuple[str, tuple[str, ...]], ...]


def gather(scene: Scene) -> CdiFacts:
    """Read the directories that runtimes read."""
    host, wanted = scene.host, scene.places.cdi_dir
    directories = dict.fromkeys(
        place for path in ("/etc/cdi", "/var/run/cdi", wanted) if (place := host.place(path))
    )
    cache = load_directories(directories)

    def shown(path: object) -> str:
        return str(path).replace(str(scene.root), "", 1) if str(scene.root) != "/" else str(path)

    definers: dict[str, list[str]] = {name: [] for name in sorted(cache.conflicts)}
    for loaded in cache.specs:
        for device in loaded.spec.devices:
            name = f"{loaded.spec.kind}={device.name}"
            if name in definers:
                definers[name].append(shown(loaded.path))
    readable = {loaded.path for loaded in cache.specs}
    return CdiFacts(
        scene.uses_cdi,
        wanted,
        host.exists(wanted),
        tuple(
            (shown(path), str(errors[0]).replace(str(path), shown(path)))
            for path, errors in sorted(cache.errors.items())
            if path not in readable
        ),
        tuple((name, tuple(paths)) for name, paths in definers.items()),
        tuple(
            (shown(loaded.path), absent)
            for loaded in cache.specs
            if (absent := tuple(p for p in _paths(loaded.spec) if not host.exists(p)))
        ),
    )


def _paths(spec: Spec) -> Iterator[str]:
    """The files of the host that a specification names, each once."""
    found: dict[str, None] = {}
    for edits in chain([spec.container_edits], (d.container_edits for d in spec.devices)):
        found |= dict.fromkeys(node.host_path or node.path for node in edits.device_nodes)
        found |= dict.fromkeys(mount.host_path for mount in edits.mounts if mount.type != "tmpfs")
        found |= dict.fromkeys(hook.path for hook in edits.hooks)
    yield from (path for path in found if path.startswith("/"))


def _broken(facts: CdiFacts) -> Iterator[Finding]:
    for path, why in facts.broken:
        yield SPEC_INVALID.found(f"{path} is broken", *why.splitlines()[:MOST])


def _conflicts(facts: CdiFacts) -> Iterator[Finding]:
    for name, paths in facts.conflicts:
        yield DEVICE_CONFLICT.found(f"device {name} is defined twice", *paths)


def _missing(facts: CdiFacts) -> Iterator[Finding]:
    for path, absent in facts.missing:
        rest = len(absent) - MOST
        more = (f"and {rest} more",) if rest > 0 else ()
        yield PATH_MISSING.found(f"{path} names files that are not there", *absent[:MOST], *more)


def _directory(facts: CdiFacts) -> Iterator[Finding]:
    if facts.uses_cdi and not facts.present:
        yield DIRECTORY_MISSING.found(f"{facts.cdi_dir} does not exist")


GROUP = Group(
    NAME,
    (SPEC_INVALID, DEVICE_CONFLICT, PATH_MISSING, DIRECTORY_MISSING),
    gather,
    (_broken, _conflicts, _missing, _directory),
)
