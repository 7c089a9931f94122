"""The configuration that the agent would have here."""

from __future__ import annotations

from collections.abc import Iterator

from deviceplugin.doctor.model import Finding, Group, Severity, Topic
from deviceplugin.doctor.scene import Scene

__all__ = ["GROUP"]

NAME = "config"

REFUSED = Topic(
    "config-refused",
    NAME,
    Severity.ERROR,
    "The configuration is refused.",
    "An agent with it does not start, and a running one keeps the former. Everything else was "
    "checked here as if nothing had been configured.",
    "See `deviceplugin config check`.",
)
DOUBTFUL = Topic(
    "config-doubtful",
    NAME,
    Severity.WARNING,
    "Something in the configuration has no effect.",
    "It is probably misspelt, or contradicts something else.",
    "See `deviceplugin config check`.",
)


def gather(scene: Scene) -> Scene:
    """It was read before."""
    return scene


def _refused(scene: Scene) -> Iterator[Finding]:
    for problem in scene.config_problems:
        yield REFUSED.found("the configuration is refused", problem)


def _doubtful(scene: Scene) -> Iterator[Finding]:
    for problem in scene.config_warnings:
        yield DOUBTFUL.found("the configuration says something without effect", problem)


GROUP = Group(NAME, (REFUSED, DOUBTFUL), gather, (_refused, _doubtful))
