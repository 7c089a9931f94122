"""What a node announces is what there is to offer, whatever happens while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from deviceplugin.api.hami import register
from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.api.node import ALLOCATION, ANNOUNCES, DEFERRED
from deviceplugin.apiserver.objects import Node
from deviceplugin.metrics import Metrics
from deviceplugin.readiness import Readiness
from deviceplugin.scheduled.announcer import Announcer
from deviceplugin.scheduled.node import ScheduledNode
from deviceplugin.scheduled.registration import Offer

KEYS = VENDORS["NVIDIA"]
OFFER = Offer(
    KEYS, (NodeDevice(uuid="a", count=10, memory=1000, cores=100, type="NVIDIA-X", healthy=True),)
)


class FakeNode:
    """A node whose annotations are written at once and seen only when the test wants it."""

    name = "n1"

    def __init__(self, annotations: Mapping[str, str] | None = None, *, deferred: bool) -> None:
        self.node = Node("n1", "u", annotations=annotations or {})
        self.deferred = deferred
        self.written: dict[str, str] = {}
        self.api = self
        self.removed = set[str]()
        self.meanwhile: Any = lambda: None

    async def patch(self, path: object, body: Mapping[str, Any], kind: str) -> dict[str, Any]:
        for key, value in body["metadata"]["annotations"].items():
            if value is None:
                self.written.pop(key, None)
                self.removed.add(key)
            else:
                self.written[key] = value
        self.meanwhile()
        return {}


async def test_what_is_withdrawn_while_it_is_announced_leaves_the_node() -> None:
    """Before the watch shows that it was there."""
    node = FakeNode(deferred=True)
    announcer = Announcer(cast(ScheduledNode, node), Readiness(Metrics()))
    announcer.offer("nvidia.com/gpu", OFFER)
    node.meanwhile = lambda: announcer.offer("nvidia.com/gpu", None)
    await announcer.announce()
    assert str(KEYS.register) in node.written
    node.meanwhile = lambda: None
    await announcer.announce()
    assert str(KEYS.register) not in node.written


LEFT = {
    str(KEYS.register): register.encode(OFFER.devices),
    ALLOCATION: DEFERRED,
    ANNOUNCES: f"{KEYS.register},{ALLOCATION}",
}
"""By an agent that handed over deferred, and has stopped."""


async def test_that_no_lock_is_needed_is_taken_back_at_once_where_it_is() -> None:
    """Before any vendor speaks up: what is bound without a lock meanwhile would be refused."""
    node = FakeNode(LEFT, deferred=False)
    await Announcer(cast(ScheduledNode, node), Readiness(Metrics())).announce()
    assert node.removed == {ALLOCATION}
    assert node.written == {ANNOUNCES: str(KEYS.register)}


async def test_another_agents_word_stays() -> None:
    node = FakeNode(LEFT, deferred=False)
    announcer = Announcer(cast(ScheduledNode, node), Readiness(Metrics()), lambda: ["ascend"])
    await announcer.announce()
    assert not node.removed
