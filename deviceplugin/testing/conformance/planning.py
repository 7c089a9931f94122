"""How devices become resources: pure, steady, within what there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from deviceplugin import splitting
from deviceplugin.kubelet.resource import MAX_MESSAGE_BYTES, list_message
from deviceplugin.probe import stream
from deviceplugin.testing.conformance.model import Check, NotApplicableError, Wrong
from deviceplugin.testing.conformance.packaging import bad_resource
from deviceplugin.testing.conformance.subject import Offered, Subject
from deviceplugin.vendor import ResourcePlan, Snapshot, with_health

__all__ = ["CHECKS"]

MOST_SHARES = 4096


def _sorted(plans: tuple[ResourcePlan, ...]) -> list[tuple[str, list[str], object, object]]:
    return sorted((p.resource, sorted(p.devices), repr(p.split), p.mode) for p in plans)


def _legal(subject: Subject) -> Wrong:
    plans = subject.plans_of(subject.snapshot, subject.node)
    if not plans:
        yield "the profile's devices become no resource"
    known = {device.uuid for device in subject.snapshot.devices}
    names = [plan.resource for plan in plans]
    for plan in plans:
        if why := bad_resource(plan.resource):
            yield why
        if names.count(plan.resource) > 1:
            yield f"{plan.resource} is planned twice"
        if strange := set(plan.devices) - known:
            yield f"{plan.resource} has a device that was not discovered: {sorted(strange)[0]}"
        split = plan.split
        if split.count < 1 or (split.count > 1 and not split.separator):
            yield f"{plan.resource}: {split.count} shares with separator {split.separator!r}"


def _empty(subject: Subject) -> Wrong:
    for plan in subject.plans_of(Snapshot(), subject.node):
        if plan.devices:
            yield f"without devices {plan.resource} has {len(plan.devices)}"


def _order(subject: Subject) -> Wrong:
    snapshot = subject.snapshot
    if len(snapshot.devices) < 2:
        raise NotApplicableError("the profile has one device")
    wanted = _sorted(tuple(item.plan for item in subject.offered))
    for start in range(1, min(len(snapshot.devices), 5)):
        turned = (*snapshot.devices[start:], *snapshot.devices[:start])
        other = replace(snapshot, devices=turned[::-1] if start % 2 else turned)
        if _sorted(subject.plans_of(other, subject.node)) != wanted:
            yield "the resources depend on the order in which the driver lists its devices"
            return


def _untouched(subject: Subject) -> Wrong:
    before = stream.encode({"type": "x", **stream.snapshot_to_dict(subject.snapshot)})
    first = subject.plans_of(subject.snapshot, subject.node)
    if stream.encode({"type": "x", **stream.snapshot_to_dict(subject.snapshot)}) != before:
        yield "plan() changes the snapshot that it was given"
    if subject.plans_of(subject.snapshot, subject.node) != first:
        yield "plan() says something else when it is asked again"


def _health(subject: Subject) -> Wrong:
    snapshot = subject.snapshot
    wanted = _sorted(tuple(item.plan for item in subject.offered))
    for position, device in enumerate(snapshot.devices):
        ill = with_health(device, False, "examined")
        devices = (*snapshot.devices[:position], ill, *snapshot.devices[position + 1 :])
        plans = subject.plans_of(replace(snapshot, devices=devices), subject.node)
        if _sorted(plans) != wanted:
            yield (
                f"with device {device.uuid} unhealthy the resources are others: a device that is "
                "ill stays on its list, and kubelet is told so"
            )
            return
    if _sorted(subject.plans_of(snapshot, subject.node)) != wanted:
        yield "when the device is healthy again, the resources stay changed"


def _shares(item: Offered) -> dict[str, list[tuple[int, int]]]:
    """MiB and percent of shares by device, of all or of very many."""
    shares: dict[str, list[tuple[int, int]]] = {}
    for identity in islice(item.table.virtual, MOST_SHARES):
        for grant in splitting.grants(item.table, [identity]):
            given = (grant.memory_mib or 0, grant.cores_percent or 0)
            shares.setdefault(grant.device.uuid, []).append(given)
    return shares


def _capacity(subject: Subject) -> Wrong:
    for item in subject.offered:
        for uuid, shares in _shares(item).items():
            device, split = item.table.devices[uuid], item.plan.split
            memory = (device.memory_mib or 0) * split.memory_scaling
            cores = device.cores_percent * split.cores_scaling
            if sum(m for m, _ in shares) > memory and device.memory_mib:
                yield f"all shares of {uuid} together have more memory than it ({memory:g} MiB)"
            # A share of less than a percent counts as one: that much cannot be limited.
            if sum(c for _, c in shares) > cores and split.count <= 100:
                yield f"all shares of {uuid} together have more cores than it ({cores:g} %)"
    by_uuid: dict[str, dict[str, None]] = {}
    for item in subject.offered:
        for uuid in item.plan.devices:
            by_uuid.setdefault(uuid, {})[item.plan.resource] = None
    for uuid, names in by_uuid.items():
        if len(names) > 1:
            yield f"{uuid} is offered as {' and as '.join(names)}: kubelet would hand it out twice"


def _fits(subject: Subject) -> Wrong:
    for item in subject.offered:
        size = list_message(item.table).ByteSize()
        if size > MAX_MESSAGE_BYTES:
            yield f"the list of {item.plan.resource} has {size} bytes, more than kubelet takes"


CHECKS = (
    Check(
        "resources",
        "resources are legal, distinct, and made of discovered devices",
        "kubelet refuses the registration and the cards are nobody's",
        _legal,
    ),
    Check(
        "no-devices",
        "no devices are no error",
        "a node whose last card failed must still be served",
        _empty,
    ),
    Check(
        "order",
        "the order of discovery changes nothing",
        "ids change their meaning when the driver lists its cards another way",
        _order,
    ),
    Check(
        "plan-pure",
        "plan() is a function: it changes nothing and answers the same",
        "the agent asks it at every probe and would register anew each time",
        _untouched,
    ),
    Check(
        "health",
        "an unhealthy device stays on its list, and comes back",
        "kubelet fails running pods of a resource that vanishes, and nobody is told why",
        _health,
    ),
    Check(
        "capacity",
        "all shares together are no more than the devices",
        "the last tenant gets memory that the first already uses",
        _capacity,
    ),
    Check(
        "list-size",
        "the device list fits into one message to kubelet",
        "kubelet ends the stream and the resource shows 0",
        _fits,
    ),
)
