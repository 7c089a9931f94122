"""Node halves that break one promise each; the class' name says which."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deviceplugin.testing.conformance.broken.keys import KEYS
from deviceplugin.testing.conformance.broken.sound import Node
from deviceplugin.vendor import (
    ContainerEdits,
    DeviceNode,
    DriverError,
    Grant,
    Hook,
    Mount,
    NodeDevice,
    Owner,
    PhysicalDevice,
    ResourcePlan,
    Snapshot,
    VendorSettings,
)


class NeedsDriver(Node):
    """Opens the driver when it is made."""

    def __init__(self, settings: VendorSettings) -> None:
        raise OSError("libsound.so.1: cannot open shared object file")


class Hangs(Node):
    """Waits for a driver that is not there."""

    def discover(self) -> Snapshot:
        """Never answers."""
        time.sleep(3600)
        return Snapshot()


class Dies(Node):
    """Calls a driver that is not there."""

    def discover(self) -> Snapshot:
        """Ends its process."""
        os._exit(139)


class Homely(Node):
    """Looks at its own machine as well."""

    def discover(self) -> Snapshot:
        """Asks for a file that only the host has."""
        if Path("/dev/soundctl").exists():
            raise DriverError("the control device is busy")
        return super().discover()


class Unanswered(Node):
    """The agent is never told what was decided."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The sound plan without a key of the scheduler's answer."""
        keys = replace(KEYS, to_allocate=None)
        return [replace(plan, keys=keys) for plan in super().plan(snapshot)]


class Silent(Node):
    """Nobody hears whether the agent is there."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The sound plan without handshake."""
        keys = replace(KEYS, handshake=None)
        return [replace(plan, keys=keys) for plan in super().plan(snapshot)]


class Apart(Node):
    """Speaks of other annotations than its scheduling half."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The sound plan with a key of its own."""
        keys = replace(KEYS, allocated="sound.example.com/allocated")
        return [replace(plan, keys=keys) for plan in super().plan(snapshot)]


class Keyless(Node):
    """Forgets that schedulers want to know."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The sound plan without keys."""
        return [replace(plan, keys=None) for plan in super().plan(snapshot)]


class IllegalResource(Node):
    """The resource has no domain."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The sound plan under a bad name."""
        plans = super().plan(snapshot)
        first = replace(plans[0], devices=(), keys=None, resource="Card!") if plans else None
        return [*plans, first] if first else plans


class NeedsDevices(Node):
    """The first card tells about all."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Fails without a first card."""
        _ = snapshot.devices[0].model
        return super().plan(snapshot)


class FirstCardOnly(Node):
    """The order of discovery decides."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Offers the first three cards."""
        return [replace(p, devices=p.devices[:3]) for p in super().plan(snapshot)]


class Counting(Node):
    """Tells in its plan how often it was asked."""

    _asked = 0

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Another answer to each question."""
        self._asked += 1
        return [replace(p, names={"asked": str(self._asked)}) for p in super().plan(snapshot)]


class Dropping(Node):
    """What is ill is not offered."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """Leaves unhealthy cards out."""
        healthy = tuple(device for device in snapshot.devices if device.healthy)
        return super().plan(replace(snapshot, devices=healthy))


class Twice(Node):
    """Every card under two names."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The cards, and the cards again."""
        plans = super().plan(snapshot)
        return [*plans, *(replace(p, resource=f"{p.resource}s", keys=None) for p in plans)]


class Endless(Node):
    """Far too many shares."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """More ids than kubelet takes in one message."""
        plans = super().plan(snapshot)
        if not plans:
            return []
        (plan,) = plans
        first, *others = sorted(plan.devices)
        split = replace(plan.split, count=240_000)
        many = replace(plan, resource=f"{plan.resource}s", devices=(first,), split=split, keys=None)
        return [replace(plan, devices=tuple(others)), many]


class Refusing(Node):
    """One share is too little for it."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """Refuses the second card."""
        if any(grant.device.index == "1" for grant in grants):
            raise ValueError("card 1 is reserved")
        return super().edits(grants, owner)


class Misreading(Node):
    """Takes every card for the first."""

    def handed(
        self, answer: ContainerEdits, devices: Sequence[PhysicalDevice]
    ) -> Collection[str] | None:
        """Whatever was handed over."""
        return [devices[0].uuid]


class EmptyVariable(Node):
    """Names that no shell and no runtime knows."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """A variable whose name has a blank."""
        found = super().edits(grants, owner)
        return replace(found, env={**found.env, "MY CARD": "0"})


class NoHook(Node):
    """A hook at a moment that CDI does not know."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The hook ``whenever``."""
        hooks = (Hook("whenever", "/usr/bin/sound"),)
        return replace(super().edits(grants, owner), hooks=hooks)


class RelativePath(Node):
    """A way that leads out of where it stands."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """A path with ``..`` in it."""
        found = super().edits(grants, owner)
        mount = Mount("/opt/sound/../../etc", "/usr/lib/sound", ("ro",))
        return replace(found, mounts=(mount,))


class SameForAll(Node):
    """All cards look alike to it."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """Always the first card's node."""
        found = super().edits(grants, owner)
        return replace(found, device_nodes=(DeviceNode("/dev/sound0"),))


class Unlimited(Node):
    """Promises shares and says nothing of them."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """No limits."""
        return replace(super().edits(grants, owner), env={})


class Remembering(Node):
    """Counts containers in what it hands over."""

    _made = 0

    def __init__(self, settings: VendorSettings) -> None:
        super().__init__(settings)
        Remembering._made += 1
        self._number = Remembering._made

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """The number of the agent's life."""
        found = super().edits(grants, owner)
        return replace(found, env={**found.env, "SOUND_LIFE": str(self._number)})


class Unordered(Node):
    """Collects in a set what has an order."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """Device nodes in the order of their hashes."""
        found = super().edits(grants, owner)
        more = {f"/dev/sound-{word}" for word in ("memory", "clock", "fabric", "event", "log")}
        return replace(found, device_nodes=(*found.device_nodes, *map(DeviceNode, more)))


class Believing(Node):
    """Takes annotations for what it hopes they are."""

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """A number from an annotation."""
        found = super().edits(grants, owner)
        time_text = owner.pod_annotations.get("predicate-time", "0")
        return replace(found, env={**found.env, "SOUND_TIME": str(_number(time_text))})


def _number(text: str) -> int:
    return int(float(text))  # OverflowError for what is written as infinite


class Strange(Node):
    """Registers what it does not offer."""

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """A card more than there is."""
        uuids = [*plan.devices, "SOUND-999"]
        return [
            NodeDevice(
                uuid=uuid, count=4, memory=8192, cores=100, type="Sound", healthy=True, index=i
            )
            for i, uuid in enumerate(uuids)
        ]


class Foreign(Node):
    """Writes annotations that are not its own."""

    def node_annotations(self, plan: ResourcePlan, snapshot: Snapshot) -> Mapping[str, str]:
        """Another vendor's key."""
        return {"other.example.com/node-register": "[]"}
