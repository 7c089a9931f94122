"""NVIDIA's MPS control daemons: one for each resource that is shared by MPS.

Source: kubelet-deviceplugin.md 4.6. Runs in a privileged process of its own (``deviceplugin
mps``), so that a restart of the agent ends no client. Programs, mounts and labels are reached
through `Effects` alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deviceplugin.vendor import PhysicalDevice, ResourcePlan, Sharing, Snapshot
from deviceplugin.vendors.nvidia.mps_client import AS_THE_DRIVER, PIPE_VARIABLE, READY, STARTED

CONTROL = "nvidia-cuda-mps-control"
QUESTION = "get_default_active_thread_percentage"
UNKNOWN_SHM = "65536k"
COMMAND_SECONDS = 60.0
CHECK_SECONDS = 10.0
QUIT_CHECKS = 30
SELINUX_LABEL = b"system_u:object_r:container_file_t:s0"


class MpsError(Exception):
    """The daemons cannot run; the text names the step, the reason and the remedy."""


class Run(Protocol):
    """Runs a program to its end. Raises `MpsError` unless it ends with status 0."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], stdin: str) -> str:
        """`env` goes on top of ours; the answer is what the program wrote to stdout."""


@dataclass(frozen=True, slots=True)
class Effects:
    """Everything that reaches beyond the daemons' own directory."""

    run: Run
    is_mount: Callable[[Path], bool]
    label: Callable[[Path], None]
    meminfo: Callable[[], str]
    sleep: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Daemon:
    """The control daemon of one resource: `devices` are shared `replicas` times, equally, or as the
    clients' own limits say.
    """

    resource: str
    devices: tuple[PhysicalDevice, ...]
    replicas: int
    root: Path
    own_limits: bool = False

    @property
    def directory(self) -> Path:
        """All of this daemon's files."""
        return self.root / self.resource

    @property
    def pipe(self) -> Path:
        """Where clients find the daemon."""
        return self.directory / "pipe"

    @property
    def log(self) -> Path:
        """Where the daemon writes its log files."""
        return self.directory / "log"

    @property
    def environment(self) -> dict[str, str]:
        """What makes the control program talk to this daemon."""
        return {
            PIPE_VARIABLE: str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log),
            **AS_THE_DRIVER,
        }

    def limits(self) -> str:
        """The commands that limit each client. A client's own limits can only be lower than these,
        so where clients have their own, these are the whole device: more than it has memory nobody
        gets, and nobody's grant is cut.

        Raises `MpsError` for a device whose memory nobody knows, because its clients could not be
        limited.
        """
        parts = 1 if self.own_limits else self.replicas
        lines = []
        for device in self.devices:
            if device.memory_mib is None:
                raise MpsError(
                    f"{device.uuid} has no memory figure, so MPS cannot limit its clients; "
                    "set nvidia.preConfiguredDeviceMemory (MiB), or share it by timeSlicing"
                )
            limit = device.memory_mib // parts
            lines.append(f"set_default_device_pinned_mem_limit {device.index} {limit}M")
        lines.append(f"set_default_active_thread_percentage {100 // parts}")
        return "".join(f"{line}\n" for line in lines)


def daemons(plans: Sequence[ResourcePlan], snapshot: Snapshot, root: Path) -> tuple[Daemon, ...]:
    """The daemons that these plans need. Pure."""
    return tuple(
        Daemon(
            plan.resource,
            tuple(device for device in snapshot.devices if device.uuid in plan.devices),
            plan.split.count,
            root,
            own_limits=bool(plan.mode),
        )
        for plan in plans
        if plan.split.sharing is Sharing.MPS
    )


def shm_size(meminfo: str) -> str:
    """The size of the shared memory: half of the machine's, by the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()
        if name == "MemTotal" and amount and amount[0].isdecimal():
            return f"{int(amount[0]) // 2}k"
    return UNKNOWN_SHM


def mount_shm(root: Path, effects: Effects) -> None:
    """Give clients and daemons their shared memory. Raises `MpsError`."""
    shm = root / "shm"
    _directory(shm, effects)
    if effects.is_mount(shm):
        return
    options = f"rw,nosuid,nodev,noexec,relatime,size={shm_size(effects.meminfo())}"
    effects.run(["mount", "-t", "tmpfs", "-o", options, "shm", str(shm)], {}, "")


@contextlib.contextmanager
def running(wanted: Sequence[Daemon], root: Path, effects: Effects) -> Iterator[None]:
    """The daemons, started and marked as ready; at the end, or when one does not start, all are
    stopped and their devices as before. Raises `MpsError`.
    """
    (root / READY).unlink(missing_ok=True)
    for daemon in wanted:
        daemon.limits()  # what cannot be limited is refused before anything is touched
    with contextlib.ExitStack() as stack:
        for daemon in wanted:
            stack.callback(stop, daemon, effects)
            start(daemon, effects)
        stack.callback((root / READY).unlink, missing_ok=True)
        (root / READY).touch()
        yield


def start(daemon: Daemon, effects: Effects) -> None:
    """Start one daemon and set its limits. Raises `MpsError`; what was done stays until `stop`."""
    (daemon.directory / STARTED).unlink(missing_ok=True)
    limits = daemon.limits()
    for device in daemon.devices:
        _compute_mode(device, "EXCLUSIVE_PROCESS", effects)
    for directory in (daemon.pipe, daemon.log):
        _directory(directory, effects)
    effects.run([CONTROL, "-d"], daemon.environment, "")
    effects.run([CONTROL], daemon.environment, limits)
    (daemon.directory / STARTED).touch()


def failure(daemon: Daemon, effects: Effects) -> str:
    """Why the daemon does not answer; empty when it does."""
    try:
        answer = effects.run([CONTROL], daemon.environment, f"{QUESTION}\n")
    except MpsError as error:
        return str(error)
    try:
        float(answer.strip())
    except ValueError:
        return f"the MPS daemon of {daemon.resource} answers {answer.strip()!r:.100}"
    return ""


def stop(daemon: Daemon, effects: Effects) -> None:
    """End the daemon and undo what `start` did, as far as it goes; a daemon that is not there is
    no error.
    """
    (daemon.directory / STARTED).unlink(missing_ok=True)
    with contextlib.suppress(MpsError):
        effects.run([CONTROL], daemon.environment, "quit\n")
        for _ in range(QUIT_CHECKS):
            if failure(daemon, effects):
                break
            effects.sleep(1.0)
    for device in daemon.devices:
        with contextlib.suppress(MpsError):
            _compute_mode(device, "DEFAULT", effects)
    shutil.rmtree(daemon.log, ignore_errors=True)


def serve(
    wanted: Sequence[Daemon], root: Path, effects: Effects, wait: Callable[[float], bool]
) -> None:
    """Run the daemons until `wait`, given seconds, says that it is time to stop.

    Raises `MpsError` when one cannot be started or no longer answers.
    """
    mount_shm(root, effects)
    with running(wanted, root, effects):
        while not wait(CHECK_SECONDS):
            for daemon in wanted:
                if reason := failure(daemon, effects):
                    raise MpsError(f"{reason}; see {daemon.log}")


def _compute_mode(device: PhysicalDevice, mode: str, effects: Effects) -> None:
    effects.run(["nvidia-smi", "-i", device.uuid, "-c", mode], {}, "")


def _directory(path: Path, effects: Effects) -> None:
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    effects.label(path)


# --- the real world ----------------------------------------------------------------------------


def run(argv: Sequence[str], env: Mapping[str, str], stdin: str) -> str:
    """Run a program for at most `COMMAND_SECONDS`; see `Run`."""
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **env},
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise MpsError(
            f"{argv[0]} is not in this container; run it with NVIDIA's runtime and "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MpsError(f"{' '.join(argv)}: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing")[:500]
        raise MpsError(f"{' '.join(argv)} ended with status {done.returncode}: {said}")
    return done.stdout


def label(path: Path) -> None:
    """Let containers of any kind use the directory where SELinux is on. Raises `MpsError`."""
    if not Path("/sys/fs/selinux/enforce").exists():
        return
    try:
        os.setxattr(path, "security.selinux", SELINUX_LABEL)
    except OSError as error:
        raise MpsError(f"{path} cannot be labelled for SELinux: {error}") from None


def meminfo() -> str:
    """The text of /proc/meminfo, empty when it cannot be read."""
    try:
        return Path("/proc/meminfo").read_text()
    except OSError:
        return ""


REAL = Effects(run, os.path.ismount, label, meminfo, time.sleep)
