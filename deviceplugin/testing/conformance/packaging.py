"""The descriptor, and what it takes to import the two halves."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from deviceplugin.testing.conformance.model import Check, NotApplicableError, Wrong
from deviceplugin.testing.conformance.subject import PATIENCE_SECONDS, Subject

__all__ = ["CHECKS", "bad_resource"]

HEAVY = ("grpc", "numpy", "kubernetes", "aiohttp", "pydantic")

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_RESOURCE = re.compile(rf"{_LABEL}(?:\.{_LABEL})+/{_NAME}")


def bad_resource(name: str) -> str:
    """Why kubelet would not take a resource's name; empty when it does."""
    if not _RESOURCE.fullmatch(name):
        return f"{name!r} is no extended resource: write domain.example/name"
    if name.partition("/")[0].endswith("kubernetes.io"):
        return f"{name!r} lies in a domain of Kubernetes, which kubelet refuses"
    return ""


def _descriptor(subject: Subject) -> Wrong:
    vendor = subject.vendor
    if why := bad_resource(vendor.resource):
        yield f"resource: {why}"
    for pattern in vendor.presence:
        if pattern.startswith("/") or ".." in pattern.split("/"):
            yield f"presence: {pattern!r} is not relative to the host's root"
    for half in ("node", "scheduling"):
        value = getattr(vendor, half)
        if value and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            yield f"{half}: {value!r} is not module:attribute"


def _node_half(subject: Subject) -> Wrong:
    try:
        subject.backend()
    except RuntimeError as error:
        yield str(error)


def _scheduling_half(subject: Subject) -> Wrong:
    if not subject.vendor.scheduling:
        raise NotApplicableError("the vendor has no scheduling half")
    try:
        subject.load_scheduling()
    except RuntimeError as error:
        yield str(error)


def _isolated(code: str, *arguments: str) -> str:
    """Run a snippet where only what is installed can be imported; its complaint."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]


_IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

_WITHOUT_LIBRARY = """
import ctypes, importlib, sys
def refuse(*a, **k):
    raise SystemExit("it loads a shared library: " + repr(a[:1]))
ctypes.CDLL.__init__ = refuse
half, node, *heavy = sys.argv[1:]
module, _, attribute = half.partition(":")
importlib.import_module(module)
heavy += [node.partition(":")[0], "pynvml"]
if loaded := [name for name in heavy if name in sys.modules]:
    raise SystemExit("it imports " + ", ".join(loaded))
"""


def _installed(subject: Subject) -> Wrong:
    halves = [half for half in (subject.vendor.node, subject.vendor.scheduling) if half]
    modules = [half.partition(":")[0] for half in halves]
    if complaint := _isolated(_IMPORT, *modules):
        yield f"{', '.join(modules)} cannot be imported from another directory: {complaint}"
    package = subject.vendor.profile.partition(":")[0]
    if package and not Path(subject.profile).is_file():
        yield f"the profile {subject.vendor.profile} is not installed"


def _light(subject: Subject) -> Wrong:
    vendor = subject.vendor
    if not vendor.scheduling:
        raise NotApplicableError("the vendor has no scheduling half")
    if complaint := _isolated(_WITHOUT_LIBRARY, vendor.scheduling, vendor.node, *HEAVY):
        yield f"{vendor.scheduling}: {complaint}"


CHECKS = (
    Check(
        "descriptor",
        "the descriptor names legal things",
        "kubelet refuses the resource, or the vendor counts as present on no node",
        _descriptor,
    ),
    Check(
        "node-half",
        "the node half can be made on a machine without the driver",
        "the agent makes it in its own process, on every node, before any probe",
        _node_half,
    ),
    Check(
        "scheduling-half",
        "the scheduling half can be made: a function that returns a list of backends",
        "the scheduler does not start with it, and nobody schedules the vendor's devices",
        _scheduling_half,
    ),
    Check(
        "wheel-only",
        "both halves are importable from what is installed, wherever the process stands",
        "it works in your checkout and nowhere else",
        _installed,
    ),
    Check(
        "scheduling-light",
        "the scheduling half loads neither driver nor node half",
        "a scheduler runs where there is no driver, and pays memory for every import",
        _light,
    ),
)
