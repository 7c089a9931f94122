"""From an asker to a record and from a record to grants; what both orders of allocation share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import structlog

from deviceplugin.allocation.modes import Ask, Granted
from deviceplugin.api.hami.keys import VGPU_NODE, VendorKeys
from deviceplugin.apiserver.objects import Pod
from deviceplugin.kubelet.podresources import Holding
from deviceplugin.notices import Notice
from deviceplugin.refusal import Blame, RefusalError
from deviceplugin.scheduled import admission
from deviceplugin.scheduled.admission import OVER_CAPACITY, NotAdmissibleError
from deviceplugin.scheduled.identity import PATIENCE_SECONDS, Asker, candidates, choose
from deviceplugin.scheduled.ledger import Record
from deviceplugin.scheduled.matching import NoGrantError, assignments
from deviceplugin.scheduled.node import ScheduledNode
from deviceplugin.vendor import Owner

NO_GRANT = "no-grant"
PASSING = frozenset({NO_GRANT, OVER_CAPACITY})
"""Reasons that time alone may remove."""


def new_record(
    node: ScheduledNode, ask: Ask, asker: Asker, keys: VendorKeys, *, held: bool = False
) -> Record:
    """The grant that a scheduler made for this container, if this node can honour it. One that is
    `held` already is a fact, whatever room is left.

    Raises `NoGrantError` and `NotAdmissibleError`.
    """
    pod, resource = asker.pod, ask.plan.resource
    check_scheduled(node, pod)
    found = [a for a in assignments(pod, keys, resource) if a.container == asker.container]
    if not found:
        raise NoGrantError(
            f"annotation {keys.allocated} of pod {pod.key} gives container "
            f"{asker.container.name} nothing; a scheduler of HAMi 2.8 serves no init containers"
        )
    record = Record(
        vendor=ask.vendor,
        resource=resource,
        ids=frozenset(ask.ids),
        pod_uid=pod.uid,
        namespace=pod.namespace,
        pod=pod.name,
        container=asker.container.name,
        shares=admission.shares(found[0].devices, len(ask.ids), ask.table, ask.plan),
        init=asker.container.is_ordinary_init,
    )
    if not held:
        admission.check_room(record, node.living(), ask.table, ask.plan)
    return record


def check_scheduled(node: ScheduledNode, pod: Pod) -> None:
    """The annotations were written for this node. Raises `NoGrantError`."""
    meant = pod.annotations.get(VGPU_NODE)
    if meant is not None and meant != node.name:
        raise NoGrantError(f"the annotations of pod {pod.key} are for node {meant!r:.80}")


def granted(node: ScheduledNode, ask: Ask, record: Record, asker: Asker) -> Granted:
    """The record in the framework's words. Raises `RefusalError`."""
    try:
        grants = admission.grants_of(record.shares, ask.table, ask.plan)
    except NotAdmissibleError as error:
        raise RefusalError(
            f"{ask.plan.resource}: {asker.name}: {error}", error.reason, Blame.TRY_AGAIN
        ) from None
    return Granted(
        Owner(
            resource=ask.plan.resource,
            allocation_id=ask.allocation_id,
            pod_uid=record.pod_uid,
            pod_namespace=record.namespace,
            pod_name=record.pod,
            container=record.container,
            scheduled=True,
            # A name counts also where the value comes from elsewhere: it may undo a limit.
            environment={**dict.fromkeys(asker.container.derived_env, ""), **asker.container.env},
            pod_annotations=asker.pod.annotations,
            apart=asker.pod.apart(record.container),
        ),
        grants,
        in_use=tuple(_in_use(node, record)),
    )


def _in_use(node: ScheduledNode, record: Record) -> Iterator[Mapping[str, str]]:
    for other in node.living():
        if other.key != record.key:
            for share in other.shares:
                if share.slot:
                    yield {"card": share.uuid, "slot": share.slot, "owner": other.owner}


def known(node: ScheduledNode, ask: Ask) -> Granted | None:
    """What the one living container with these ids was given; None when it is not one."""
    living = {record.key for record in node.living()}
    found = [
        record
        for record in node.ledger.with_ids(ask.plan.resource, ask.ids)
        if record.key in living and not record.init
    ]
    if len(found) != 1:
        return None
    record = found[0]
    pod = node.pods.by_uid(record.pod_uid)
    container = pod.container(record.container) if pod else None
    if pod is None or container is None:
        return None
    try:
        return granted(node, ask, record, Asker(pod, container))
    except RefusalError:
        return None


def tell_refused(node: ScheduledNode, granted: Granted, reason: str) -> None:
    """Tell on the pod that a grant that was decided on comes to nothing."""
    if (pod := node.pods.by_uid(granted.owner.pod_uid)) is not None:
        node.tell_pod(pod, Notice.GRANT_REFUSED, reason)


async def adopt(
    node: ScheduledNode,
    ask: Ask,
    keys: VendorKeys,
    holdings: Sequence[Holding],
    proof: Callable[[Asker], Awaitable[bool]],
) -> bool:
    """Take into the record what kubelet says in `holdings` that a container holds and nobody here
    knows of: an agent before us, or another plugin, handed it over. Whether something was learned.
    """
    resource = ask.plan.resource
    if node.ledger.with_ids(resource, ask.ids):
        return False
    entries = await asyncio.to_thread(node.checkpoint.entries)
    askers, _ = candidates(resource, ask.ids, holdings, entries, node.pods)
    asker, _ = choose(askers, node.ledger, resource) if askers else (None, "")
    if asker is None:
        return False
    try:
        if await proof(asker):
            record = new_record(node, ask, asker, keys, held=True)
            await remember(node, record)
            node.tell_pod(asker.pod, Notice.GRANT_ADOPTED, _adopted(record))
            return True
        why = "what kubelet keeps of the answer does not show them to be its own"
    except (NoGrantError, NotAdmissibleError) as error:
        why = str(error)
    except RefusalError as error:
        structlog.get_logger().warning(
            "a grant was not adopted", owner=asker.name, reason=str(error)
        )
        return False
    if asker.container.name in asker.pod.started:
        node.tell_pod_once(asker.pod, Notice.GRANT_UNPROVED, _unproved(asker, resource, why))
    return False


def _adopted(record: Record) -> str:
    devices = ", ".join(share.uuid for share in record.shares)
    return (
        f"{record.resource}: container {record.container} holds {devices}, which was handed over "
        "before this agent knew of it, and goes on with it"
    )


def _unproved(asker: Asker, resource: str, why: str) -> str:
    return (
        f"{resource}: container {asker.container.name} runs with devices that no record accounts "
        f"for: {why}; it is not disturbed, but can be refused when it starts again: then delete "
        "the pod, so that it is scheduled again"
    )


async def remember(node: ScheduledNode, record: Record) -> None:
    """Write the record down. Raises `RefusalError` when the file cannot be written."""
    if node.ledger.get(*record.key) == record:
        return
    try:
        await asyncio.to_thread(node.ledger.put, record)
    except OSError as error:
        raise RefusalError(
            f"{record.resource}: the grant of {record.owner} cannot be recorded: {error}",
            "node-not-prepared",
            Blame.TRY_AGAIN,
        ) from None


async def reserve(node: ScheduledNode, record: Record) -> None:
    """Let everybody see it; whoever decided on it writes it down, or drops it again."""
    node.reserved[record.key] = record


async def settle(
    node: ScheduledNode,
    asker: Asker,
    attempt: Callable[[Asker], Record],
    blame: Blame,
    keep: Callable[[ScheduledNode, Record], Awaitable[None]] = remember,
) -> tuple[Record, Asker]:
    """Decide and `keep` it in one go, so that two never take the same room. What is missing may be
    on its way and what is in the way may be ending, so those are waited for a few seconds; every
    `attempt` is given the asker with his pod as it is then, and the last of them is answered, too.

    Raises `RefusalError`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while True:
        try:
            async with node.deciding:
                pod = node.pods.by_uid(asker.pod.uid)
                if pod is None or pod.ended or pod.deleting:
                    raise RefusalError(f"pod {asker.pod.key} is over", "pod-gone", blame)
                asker = Asker(pod, asker.container)
                record = attempt(asker)
                await keep(node, record)
                return record, asker
        except NoGrantError as error:
            refusal = RefusalError(f"{asker.name}: {error}", NO_GRANT, blame)
        except NotAdmissibleError as error:
            refusal = RefusalError(f"{asker.name}: {error}", error.reason, blame)
        left = deadline - loop.time()
        if left <= 0 or refusal.reason not in PASSING:
            raise refusal
        await node.news(left)
