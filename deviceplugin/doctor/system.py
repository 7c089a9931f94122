"""The kernel and its limits."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass

from deviceplugin.doctor.model import Finding, Group, Severity, Topic
from deviceplugin.doctor.scene import Scene

__all__ = ["GROUP", "SystemFacts"]

NAME = "system"
KERNEL = (3, 10)
"""Source: deploy-observe-webui.md 4.1."""
FILES = 1024
INSTANCES = 128
WATCHES = 8192
FULL = 0.9

KERNEL_OLD = Topic(
    "kernel-old",
    NAME,
    Severity.WARNING,
    "The kernel is older than 3.10.",
    "Nobody has tried sharing devices on it.",
    "Update the node.",
)
FILE_LIMIT = Topic(
    "file-limit-low",
    NAME,
    Severity.WARNING,
    "Processes may open few files.",
    "The agent holds a socket a resource, a connection to kubelet and one to the API server, and a "
    "monitor opens a file a container.",
    "Raise the limit of the runtime's service (LimitNOFILE), from which pods have theirs.",
)
FILES_EXHAUSTED = Topic(
    "files-exhausted",
    NAME,
    Severity.ERROR,
    "The node has nearly no files left to open.",
    "When they run out nothing starts any more, device plugins and containers included.",
    "Find who holds them (lsof), or raise fs.file-max.",
)
INOTIFY_LOW = Topic(
    "inotify-low",
    NAME,
    Severity.WARNING,
    "Few processes may watch files.",
    "Agents and runtimes notice a restarted kubelet and new CDI specifications by inotify. Without "
    "it they look every few seconds only.",
    "Raise fs.inotify.max_user_instances to 512 and fs.inotify.max_user_watches to 65536 "
    "(/etc/sysctl.d).",
)
MOUNTS_PRIVATE = Topic(
    "mounts-private",
    NAME,
    Severity.WARNING,
    "Mounts of the host do not reach running pods.",
    "The file system with kubelet's directory is not shared, so what is mounted later on the host, "
    "such as a driver container's root, is not seen by the agent.",
    "mount --make-rshared / on the host, at every boot.",
)
READ_ONLY = Topic(
    "library-read-only",
    NAME,
    Severity.ERROR,
    "The directory for libvgpu is on a read-only file system.",
    "Neither the library nor the containers' directories can be made there, as on hosts with an "
    "immutable /usr.",
    "Choose another directory: hook install --target, and the agent's --hook-path.",
)
SELINUX = Topic(
    "selinux-enforcing",
    NAME,
    Severity.NOTE,
    "SELinux is enforcing.",
    "Kubelet labels nothing of what a device plugin mounts, so containers may be refused their "
    "libvgpu directory and its lock.",
    "Label them: chcon -R -t container_file_t /usr/local/vgpu /tmp/vgpulock.",
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    point: str
    shared: bool
    read_only: bool


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """None where the host does not tell. `kubelet` and `library` are the mounts that hold
    kubelet's directory and the library's.
    """

    kernel: str
    file_limit: int
    files_open: int | None
    files_most: int | None
    instances: int | None
    watches: int | None
    selinux: bool
    kubelet: Mount | None
    library: Mount | None
    limits: bool
    library_path: str


def gather(scene: Scene) -> SystemFacts:
    """Read what the kernel tells."""
    host = scene.host
    mounts = tuple(_mounts(host.read("/proc/1/mountinfo") or ""))
    numbers = (host.read("/proc/sys/fs/file-nr") or "").split()
    return SystemFacts(
        kernel=(host.read("/proc/sys/kernel/osrelease") or "").strip(),
        file_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        files_open=int(numbers[0]) if len(numbers) == 3 and numbers[0].isdecimal() else None,
        files_most=int(numbers[2]) if len(numbers) == 3 and numbers[2].isdecimal() else None,
        instances=host.number("/proc/sys/fs/inotify/max_user_instances"),
        watches=host.number("/proc/sys/fs/inotify/max_user_watches"),
        selinux=host.number("/sys/fs/selinux/enforce") == 1,
        kubelet=_holding(mounts, "/var/lib/kubelet"),
        library=_holding(mounts, scene.places.library),
        limits=scene.limits,
        library_path=scene.places.library,
    )


def _mounts(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        fields = line.split(" ")
        if "-" not in fields or len(fields) < 9:
            continue
        end = fields.index("-")
        options = fields[5].split(",")
        shared = any(field.startswith("shared:") for field in fields[6:end])
        yield Mount(fields[4], shared, "ro" in options)


def _holding(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The mount that a path is on: the longest point, and the last of equal ones."""
    best = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and (
            best is None or len(mount.point) >= len(best.point)
        ):
            best = mount
    return best


def _kernel(facts: SystemFacts) -> Iterator[Finding]:
    match = re.match(r"(\d+)\.(\d+)", facts.kernel)
    if match and (int(match[1]), int(match[2])) < KERNEL:
        yield KERNEL_OLD.found(f"the kernel is {facts.kernel}")


def _files(facts: SystemFacts) -> Iterator[Finding]:
    if 0 <= facts.file_limit < FILES:
        yield FILE_LIMIT.found(f"a process may open {facts.file_limit} files")
    most = facts.files_most
    if facts.files_open is not None and most and facts.files_open > FULL * most:
        yield FILES_EXHAUSTED.found(
            f"{facts.files_open} of {most} files are open", "/proc/sys/fs/file-nr"
        )


def _inotify(facts: SystemFacts) -> Iterator[Finding]:
    low = [
        f"fs.inotify.{name} is {value}, {least} are usual"
        for name, value, least in (
            ("max_user_instances", facts.instances, INSTANCES),
            ("max_user_watches", facts.watches, WATCHES),
        )
        if value is not None and value < least
    ]
    if low:
        yield INOTIFY_LOW.found("few processes may watch files", *low)


def _propagation(facts: SystemFacts) -> Iterator[Finding]:
    if facts.kubelet is not None and not facts.kubelet.shared:
        yield MOUNTS_PRIVATE.found(
            f"the mount {facts.kubelet.point} with kubelet's directory is private",
            "/proc/1/mountinfo",
        )


def _read_only(facts: SystemFacts) -> Iterator[Finding]:
    if facts.limits and facts.library is not None and facts.library.read_only:
        yield READ_ONLY.found(
            f"{facts.library_path} is on the read-only mount {facts.library.point}",
            "/proc/1/mountinfo",
        )


def _selinux(facts: SystemFacts) -> Iterator[Finding]:
    if facts.selinux and facts.limits:
        yield SELINUX.found("SELinux is enforcing")


GROUP = Group(
    NAME,
    (FILES_EXHAUSTED, READ_ONLY, KERNEL_OLD, FILE_LIMIT, INOTIFY_LOW, MOUNTS_PRIVATE, SELINUX),
    gather,
    (_kernel, _files, _inotify, _propagation, _read_only, _selinux),
)
