"""What a node announces is what there is to offer, whatever happens while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from deviceplugin.api.hami.keys import VENDORS
from deviceplugin.api.hami.register import NodeDevice
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
    deferred = True

    def __init__(self) -> None:
        self.node = Node("n1", "u")
        self.written: dict[str, str] = {}
        self.api = self
        self.meanwhile: Any = lambda: None

    async def patch(self, path: object, body: Mapping[str, Any], kind: str) -> dict[str, Any]:
        for key, value in body["metadata"]["annotations"].items():
            if value is None:
                self.written.pop(key, None)
            else:
                self.written[key] = value
        self.meanwhile()
        return {}


async def test_what_is_withdrawn_while_it_is_announced_leaves_the_node() -> None:
    """Before the watch shows that it was there."""
    node = FakeNode()
    announcer = Announcer(cast(ScheduledNode, node), Readiness(Metrics()))
    announcer.offer("nvidia.com/gpu", OFFER)
    node.meanwhile = lambda: announcer.offer("nvidia.com/gpu", None)
    await announcer.announce()
    assert str(KEYS.register) in node.written
    node.meanwhile = lambda: None
    await announcer.announce()
    assert str(KEYS.register) not in node.written
