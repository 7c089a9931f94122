"""libvgpu on the host, as `deviceplugin.hook` sees it."""

from __future__ import annotations

from collections.abc import Iterator

from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic
from deviceplugin.doctor.scene import Scene
from deviceplugin.hook.status import Status, verify

__all__ = ["GROUP"]

NAME = "library"

MISSING = Topic(
    "library-missing",
    NAME,
    Severity.ERROR,
    "libvgpu is not on the host.",
    "Shares of a card are limited by libvgpu, which every container loads from the host. Without "
    "it the agent offers no shares, or containers that were promised it do not start.",
    "Run deviceplugin hook install (docs/hook.md), or set isolation: none.",
)
BROKEN = Topic(
    "library-broken",
    NAME,
    Severity.ERROR,
    "The libvgpu that containers get cannot be loaded or was changed.",
    "It is cut short, made for another machine, or not what was installed. Every process of a "
    "container with limits prints an error of its preload file and runs without limits.",
    "Run deviceplugin hook install with the right library; it replaces a damaged one.",
)
FORMER_BROKEN = Topic(
    "library-former-broken",
    NAME,
    Severity.NOTE,
    "A libvgpu that is not the current one is damaged.",
    "New containers do not get it. Those that still have it may fail.",
    "Remove it once no container uses it.",
)
UNKNOWN = Topic(
    "library-unknown",
    NAME,
    Severity.WARNING,
    "Nobody vouches for the libvgpu on the host.",
    "It runs in every process of every container with limits, and its content is in no manifest: "
    "it may be another version than its name says, or anything.",
    "Compare it with the image it came from, then name it in a manifest (--manifest).",
)
PLACE = Topic(
    "library-place",
    NAME,
    Severity.ERROR,
    "The directory of libvgpu is not fit for it.",
    "Others than root may write to it, and so replace what all containers load; or something else "
    "stands in its place.",
    "Give it to root with mode 755.",
)
PRELOAD_MISSING = Topic(
    "preload-missing",
    NAME,
    Severity.ERROR,
    "The preload file is not on the host.",
    "It is mounted over /etc/ld.so.preload of containers and makes them load libvgpu. Without it "
    "containers do not start, or run without limits.",
    "Run deviceplugin hook install.",
)
PRELOAD_WRONG = Topic(
    "preload-wrong",
    NAME,
    Severity.ERROR,
    "The preload file does not name libvgpu, or cannot be read by all.",
    "Containers load what it says: with another path every process prints an error and runs "
    "without limits.",
    "Run deviceplugin hook install.",
)
LICENSE = Topic(
    "license-incomplete",
    NAME,
    Severity.ERROR,
    "There is a license and no vgpuvalidator.",
    "Where the license exists, both files are mounted into containers; with one missing they do "
    "not start.",
    "Bring the other file, or remove the license.",
)
LOCK = Topic(
    "lock-directory",
    NAME,
    Severity.ERROR,
    "The directory of libvgpu's lock cannot be used by all containers.",
    "Containers take a lock in /tmp/vgpulock when they first use a device. Processes of other "
    "users than the directory's owner wait there, or never get it.",
    "Make it a directory of root's with mode 777.",
)

_TOPICS = {
    topic.id: topic
    for topic in (
        MISSING,
        BROKEN,
        UNKNOWN,
        PLACE,
        PRELOAD_MISSING,
        PRELOAD_WRONG,
        LICENSE,
        LOCK,
    )
}


def gather(scene: Scene) -> Status:
    """Look at the directory, where anything is to be limited by the library."""
    if not scene.limits:
        raise NotCheckedError("nothing here is limited by libvgpu")
    return verify(scene.root, scene.places.library, scene.manifest, scene.machine)


def _state(status: Status) -> Iterator[Finding]:
    for trouble in status.troubles:
        topic = _TOPICS[trouble.slug]
        if topic is BROKEN and not trouble.fatal:
            topic = FORMER_BROKEN
        yield topic.found(trouble.what, remedy=trouble.remedy)


GROUP = Group(NAME, (*_TOPICS.values(), FORMER_BROKEN), gather, (_state,))
