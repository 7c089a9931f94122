"""Simulated nodes for the tests: data of a profile, a clock that only tests move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from deviceplugin.vendor import VendorSettings
from deviceplugin.vendors.mock.node import MockNode, World, create
from deviceplugin.vendors.mock.profile import Profile
from deviceplugin.vendors.mock.reading import read


class Died(BaseException):
    """The simulated end of the probe."""


class Stuck(BaseException):
    """The node waits for more than an hour of simulated time: it hangs."""


class Clock:
    """Time that passes when the node waits; `waited` is every wait in order."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.waited: list[float] = []

    def sleep(self, seconds: float) -> None:
        if seconds >= 3600:
            raise Stuck
        self.waited.append(seconds)
        self.now += seconds

    def crash(self) -> None:
        raise Died

    def world(self) -> World:
        return World(lambda: self.now, self.sleep, self.crash)


@pytest.fixture
def died() -> type[BaseException]:
    return Died


@pytest.fixture
def stuck() -> type[BaseException]:
    return Stuck


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def three_cards() -> dict[str, Any]:
    """The data of a node with the cards a, b and c of 1000 MiB."""
    return {
        "devices": [
            {"uuid": uuid, "model": "Card", "memoryMiB": 1000, "numaNode": 0} for uuid in "abc"
        ]
    }


@pytest.fixture
def profile(three_cards: dict[str, Any]) -> Callable[..., Profile]:
    """Those three cards with other keys beside."""

    def make(**keys: Any) -> Profile:
        return read({**three_cards, **keys}, "test", "mock.deviceplugin.dev/gpu", inline=True)

    return make


@pytest.fixture
def node(clock: Clock, three_cards: dict[str, Any]) -> Callable[..., MockNode]:
    """A node half of those three cards; keys of the profile by name, of the section by `section`,
    of the settings by `settings`.
    """

    def make(
        section: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> MockNode:
        whole = VendorSettings(
            section={"node": {**three_cards, **keys}, **(section or {})}, **(settings or {})
        )
        return type(create(whole))(whole, clock.world())

    return make
