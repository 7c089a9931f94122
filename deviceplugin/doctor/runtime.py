"""The container runtime: whether devices reach containers through it.

Source of what each runtime does by default: cdi.md 4.3; of the handler: deploy-observe-webui.md
4.1, 4.3.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from deviceplugin.doctor.files import HostFiles
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Scene

__all__ = ["GROUP", "RuntimeFacts"]

NAME = "runtime"

_CONTAINERD = (
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    "/etc/k0s/containerd.toml",
    "/etc/containerd/config.toml",
)
_CRIO = ("/etc/crio/crio.conf", "/etc/crio/crio.conf.d")
_DOCKER = "/etc/docker/daemon.json"
_SOCKETS = (
    ("/run/k3s/containerd/containerd.sock", "containerd"),
    ("/var/snap/microk8s/common/run/containerd.sock", "containerd"),
    ("/run/k0s/containerd.sock", "containerd"),
    ("/run/containerd/containerd.sock", "containerd"),
    ("/run/crio/crio.sock", "cri-o"),
    ("/run/cri-dockerd.sock", "docker"),
)
_ENDPOINTS = (("crio", "cri-o"), ("dockerd", "docker"), ("containerd", "containerd"))
_SECTIONS = (
    "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri",
    "cri",
)
_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")

CONFIG_BROKEN = Topic(
    "runtime-config-broken",
    NAME,
    Severity.ERROR,
    "The container runtime's configuration cannot be read.",
    "A runtime that is restarted with a broken file does not start, and no pod of the node does.",
    "Correct the file, then restart the runtime.",
)
UNKNOWN = Topic(
    "runtime-unknown",
    NAME,
    Severity.NOTE,
    "No container runtime was found.",
    "Neither a configuration nor a socket of containerd, CRI-O or Docker is where they usually "
    "are, so nothing of the runtime was checked.",
    "Name the host's root file system (--host-root).",
)
HANDLER_MISSING = Topic(
    "runtime-handler-missing",
    NAME,
    Severity.ERROR,
    "The runtime does not know the vendor's handler.",
    "With the strategies envvar and volume-mounts the vendor's own container runtime brings device "
    "nodes and driver libraries into containers. Without it they find no device.",
    "Configure it (nvidia-ctk runtime configure --runtime=containerd --set-as-default) and restart "
    "the runtime, or use --device-list-strategy cdi-cri.",
)
NOT_DEFAULT = Topic(
    "runtime-not-default",
    NAME,
    Severity.WARNING,
    "The vendor's handler is not the default one.",
    "Only pods with a runtimeClassName of this handler get devices; all others start without any, "
    "or their driver libraries are missing.",
    "Make it the default, give pods a runtimeClassName, or use --device-list-strategy cdi-cri.",
)
BINARY_MISSING = Topic(
    "runtime-binary-missing",
    NAME,
    Severity.ERROR,
    "The program behind a handler is not there.",
    "The runtime is to start containers with a program that does not exist; every pod with this "
    "handler fails to start.",
    "Install the vendor's container toolkit, or correct the path in the runtime's configuration.",
)
CDI_OFF = Topic(
    "runtime-cdi-off",
    NAME,
    Severity.ERROR,
    "CDI is switched off in the runtime.",
    "Devices are handed over by CDI, and this runtime ignores that or fails: depending on its "
    "version containers start without devices or not at all.",
    "Switch it on: enable_cdi = true in containerd's CRI section, or containerd 2.0 and newer; "
    "then restart the runtime.",
)
CDI_UNCLEAR = Topic(
    "runtime-cdi-unclear",
    NAME,
    Severity.NOTE,
    "Whether the runtime speaks CDI depends on its version.",
    "The configuration does not say it, containerd up to 1.7 has it off by default and 2.0 on, and "
    "the version is not known here.",
    "Set enable_cdi = true, or give this command a way to the API server, which knows the version.",
)
CDI_DIRECTORY = Topic(
    "runtime-cdi-directory",
    NAME,
    Severity.ERROR,
    "The runtime does not read the directory of our specifications.",
    "The agent writes CDI specifications to a directory that the runtime's configuration leaves "
    "out: containers end with unresolvable CDI devices.",
    "Add the directory to the runtime's cdi_spec_dirs, or name one of those with --cdi-dir.",
)


@dataclass(frozen=True, slots=True)
class Config:
    """A runtime's configuration. `handlers` maps names to programs, empty where none is named;
    `cdi` and `cdi_dirs` are None where the configuration does not say.
    """

    path: str
    error: str = ""
    handlers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    default: str = ""
    cdi: bool | None = None
    cdi_dirs: tuple[str, ...] | None = None
    generation: int = 0
    """Of containerd's configuration format."""


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """`kind` is ``containerd``, ``cri-o`` or ``docker``, empty when unknown; `version` its first
    two numbers. `needed` are handlers that containers need, `missing` programs that are not there.
    """

    kind: str
    config: Config
    version: tuple[int, int] | None
    needed: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    uses_cdi: bool
    cdi_dir: str


def gather(scene: Scene) -> RuntimeFacts:
    """Look at the configuration of the runtime that kubelet uses."""
    host = scene.host
    kind, version = _by_node(scene)
    kind = kind or _by_kubelet(host) or _by_files(host)
    config = _READERS[kind](host, version) if kind else Config("")
    by_list = {"envvar", "volume-mounts"} & set(scene.strategies)
    handlers = {driver.handler for driver in scene.drivers} - {""}
    missing = tuple(
        (name, binary)
        for name, binary in config.handlers.items()
        if name in handlers and binary.startswith("/") and not host.exists(binary)
    )
    return RuntimeFacts(
        kind,
        config,
        version,
        tuple(sorted(handlers)) if by_list else (),
        missing,
        scene.uses_cdi,
        scene.places.cdi_dir,
    )


def _config_broken(facts: RuntimeFacts) -> Iterator[Finding]:
    if facts.config.error:
        yield CONFIG_BROKEN.found(f"{facts.config.path} cannot be read", facts.config.error)


def _unknown(facts: RuntimeFacts) -> Iterator[Finding]:
    if not facts.kind:
        yield UNKNOWN.found("no container runtime was found on this host")


def _handler(facts: RuntimeFacts) -> Iterator[Finding]:
    if not facts.kind or facts.config.error:
        return
    config, place = facts.config, facts.config.path or f"{facts.kind}'s defaults"
    for name in facts.needed:
        known = ", ".join(sorted(config.handlers)) or "none"
        if name not in config.handlers:
            yield HANDLER_MISSING.found(
                f"{facts.kind} has no handler {name!r}", f"{place}: handlers are {known}"
            )
        elif config.default != name:
            yield NOT_DEFAULT.found(
                f"{facts.kind}'s default handler is {config.default or 'runc'!r}, not {name!r}",
                f"{place}: handlers are {known}",
            )


def _binary(facts: RuntimeFacts) -> Iterator[Finding]:
    for name, binary in facts.missing:
        yield BINARY_MISSING.found(
            f"handler {name!r} is to run {binary}, which is not there", facts.config.path
        )


def _cdi(facts: RuntimeFacts) -> Iterator[Finding]:
    if not facts.uses_cdi or not facts.kind or facts.config.error:
        return
    state, why = _cdi_state(facts)
    if state is None:
        yield CDI_UNCLEAR.found(f"whether {facts.kind} speaks CDI here is not known", why)
    elif not state:
        yield CDI_OFF.found(f"{facts.kind} does not speak CDI here", why)
    else:
        yield from _directories(facts)


def _directories(facts: RuntimeFacts) -> Iterator[Finding]:
    read = facts.config.cdi_dirs if facts.config.cdi_dirs is not None else _DIRECTORIES
    if _plain(facts.cdi_dir) not in map(_plain, read):
        yield CDI_DIRECTORY.found(
            f"{facts.kind} does not read {facts.cdi_dir}",
            f"{facts.config.path or 'by default'}: it reads {', '.join(read) or 'none'}",
        )


def _cdi_state(facts: RuntimeFacts) -> tuple[bool | None, str]:
    config, version = facts.config, facts.version
    said = f"{facts.kind} {'.'.join(map(str, version))}" if version else config.path
    if facts.kind == "containerd" and version and version < (1, 7):
        return False, f"{said}: CDI came with containerd 1.7"
    if config.cdi is not None:
        return config.cdi, f"{config.path}: CDI is {'on' if config.cdi else 'off'}"
    if facts.kind == "cri-o":
        return True, "CRI-O has it always on"
    if facts.kind == "docker":
        return version >= (28, 2) if version else None, f"{said}: on by default from Docker 28.2"
    if version:
        return version >= (2, 0), f"{said}: nothing set, on by default from containerd 2.0"
    if config.generation >= 3:
        return True, f"{config.path}: the format of containerd 2.0, where it is on by default"
    return None, f"{config.path or 'no configuration'}: enable_cdi is not set"


def _plain(path: str) -> str:
    """``/var/run`` is ``/run`` on every host of this century."""
    return re.sub(r"^/var/run(?=/|$)", "/run", path.rstrip("/"))


# --- which runtime ---


def _by_node(scene: Scene) -> tuple[str, tuple[int, int] | None]:
    """What the Node object says, if it can be asked: ``containerd://1.7.13``."""
    try:
        found = scene.cluster.node(scene.node_name) if scene.cluster else None
    except NotCheckedError:
        found = None
    info = ((found or {}).get("status") or {}).get("nodeInfo") or {}
    match = re.match(
        r"(containerd|cri-o|docker)://v?(\d+)\.(\d+)", str(info.get("containerRuntimeVersion"))
    )
    return (match[1], (int(match[2]), int(match[3]))) if match else ("", None)


def _by_kubelet(host: HostFiles) -> str:
    """The endpoint that kubelet is given."""
    for path in ("/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env"):
        match = re.search(
            r"(?:containerRuntimeEndpoint:|--container-runtime-endpoint=)\s*[\"']?(\S+?)[\"']?(?:\s|$)",
            host.read(path) or "",
        )
        if match:
            for word, kind in _ENDPOINTS:
                if word in match[1]:
                    return kind
    return ""


def _by_files(host: HostFiles) -> str:
    for path, kind in _SOCKETS:
        if host.exists(path):
            return kind
    if any(host.exists(path) for path in _CONTAINERD):
        return "containerd"
    if any(host.exists(path) for path in _CRIO):
        return "cri-o"
    return "docker" if host.exists(_DOCKER) else ""


# --- what it is told ---


def _containerd(host: HostFiles, version: tuple[int, int] | None) -> Config:
    path = next((path for path in _CONTAINERD if host.exists(path)), "")
    if not path:
        return Config("", default="runc")
    try:
        document: Mapping[str, Any] = _toml(host, path)
        for pattern in _texts(document.get("imports")) or ():
            for imported in _matching(host, path, pattern):
                document = _imported(document, _toml(host, imported), version)
    except ValueError as error:
        return Config(path, error=str(error))
    plugins = _mapping(document, "plugins")
    section = next((_mapping(plugins, name) for name in _SECTIONS if name in plugins), {})
    containerd = _mapping(section, "containerd")
    handlers = {
        name: str(_mapping(_as_mapping(entry), "options").get("BinaryName") or "")
        for name, entry in _mapping(containerd, "runtimes").items()
    }
    return Config(
        path,
        handlers=MappingProxyType(handlers),
        default=str(containerd.get("default_runtime_name") or "runc"),
        cdi=_truth(section.get("enable_cdi")),
        cdi_dirs=_texts(section.get("cdi_spec_dirs")),
        generation=_generation(document),
    )


def _imported(
    below: Mapping[str, Any], above: Mapping[str, Any], version: tuple[int, int] | None
) -> Mapping[str, Any]:
    """Containerd up to 1.7 takes each plugin's section whole from the last file that has one, so
    that a drop-in with one setting undoes all others; 2.0 and newer merge (containerd pull request
    9982).
    """
    merged = _merged(below, above)
    if version >= (2, 0) if version else _generation(below) >= 3:
        return merged
    plugins = {**_mapping(below, "plugins"), **_mapping(above, "plugins")}
    return {**merged, "plugins": plugins}


def _generation(document: Mapping[str, Any]) -> int:
    version = document.get("version")
    return version if isinstance(version, int) else 1


def _crio(host: HostFiles, _: tuple[int, int] | None) -> Config:
    main, drop_ins = _CRIO
    document: Mapping[str, Any] = {}
    paths = [main] * host.exists(main)
    paths += [f"{drop_ins}/{name}" for name in host.names(drop_ins)]
    for path in paths:
        try:
            document = _merged(document, _toml(host, path))
        except ValueError as error:
            return Config(path, error=str(error))
    section = _mapping(_mapping(document, "crio"), "runtime")
    handlers = {
        name: str(_as_mapping(entry).get("runtime_path") or "")
        for name, entry in _mapping(section, "runtimes").items()
    }
    return Config(
        main if main in paths else drop_ins if paths else "",
        handlers=MappingProxyType(handlers),
        default=str(section.get("default_runtime") or "runc"),
        cdi_dirs=_texts(section.get("cdi_spec_dirs")),
    )


def _docker(host: HostFiles, _: tuple[int, int] | None) -> Config:
    text = host.read(_DOCKER)
    if text is None:
        return Config("", default="runc")
    try:
        document = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        return Config(_DOCKER, error=str(error))
    document = _as_mapping(document)
    handlers = {
        name: str(_as_mapping(entry).get("path") or "")
        for name, entry in _mapping(document, "runtimes").items()
    }
    return Config(
        _DOCKER,
        handlers=MappingProxyType(handlers),
        default=str(document.get("default-runtime") or "runc"),
        cdi=_truth(_mapping(document, "features").get("cdi")),
        cdi_dirs=_texts(document.get("cdi-spec-dirs")),
    )


_READERS: Mapping[str, Callable[[HostFiles, tuple[int, int] | None], Config]] = {
    "containerd": _containerd,
    "cri-o": _crio,
    "docker": _docker,
}


def _toml(host: HostFiles, path: str) -> dict[str, Any]:
    """Raises `ValueError`."""
    text = host.read(path)
    if text is None:
        raise ValueError(f"{path} is no file that can be read")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def _matching(host: HostFiles, path: str, pattern: str) -> list[str]:
    """The files of an import; patterns are allowed in their last part."""
    folder = str(PurePosixPath(path).parent / PurePosixPath(pattern).parent)
    last = PurePosixPath(pattern).name
    return [f"{folder}/{name}" for name in host.names(folder) if PurePosixPath(name).match(last)]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return merged


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _as_mapping(document.get(key))


def _as_mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) else None


GROUP = Group(
    NAME,
    (
        CONFIG_BROKEN,
        HANDLER_MISSING,
        NOT_DEFAULT,
        BINARY_MISSING,
        CDI_OFF,
        CDI_UNCLEAR,
        CDI_DIRECTORY,
        UNKNOWN,
    ),
    gather,
    (_config_broken, _unknown, _handler, _binary, _cdi),
)
