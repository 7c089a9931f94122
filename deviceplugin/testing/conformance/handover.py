"""What a container is given: legal, steady, its own, and limited where limits are promised."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from deviceplugin.allocation.handed import handed
from deviceplugin.cdi import CDIError
from deviceplugin.cdi import check as check_cdi
from deviceplugin.injection.render import CannotInjectError, Strategy, render
from deviceplugin.kubelet.service import container_response
from deviceplugin.testing.conformance.model import Check, NotApplicableError, Wrong
from deviceplugin.testing.conformance.subject import PATIENCE_SECONDS, Offered, Subject
from deviceplugin.vendor import AnswerReader, ContainerEdits, Grant, RuntimeExposed, Slotted

__all__ = ["CHECKS", "fingerprint"]

DIRECT, CDI = Strategy(("envvar",), pass_device_specs=True), Strategy(("cdi-cri",))

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

HOSTILE = {
    "a/b": "\x00\x1b[31m",
    "hami.io/x": "GPU-1,NVIDIA,-5,200:;" * 1000,
    "metax-tech.com/sgpu-qos-policy": "\n",
    "huawei.com/Ascend910B4": "[{",
    "predicate-time": "1e999",
}
"""Annotations as a stranger might write them."""


def _edits(subject: Subject) -> Iterator[tuple[Offered, tuple[Grant, ...], ContainerEdits]]:
    found = False
    for item in subject.offered:
        for grants, edits in subject.handed(item):
            found = True
            yield item, grants, edits
    if not found:
        raise NotApplicableError(
            "each grant is refused or becomes a partition, which only the node makes"
        )


def _served(subject: Subject) -> Wrong:
    node = subject.node
    for item in subject.offered:
        for grants in item.grants():
            owner = subject.owner(item)
            if isinstance(node, Slotted):
                asked = [node.slot_request(grant, owner) for grant in grants]
                if any(request is not None for request in asked):
                    json.dumps(asked)  # what the probe is told is plain data
                    if asked != [node.slot_request(grant, owner) for grant in grants]:
                        yield f"{item.plan.resource}: slot_request() answers differently each time"
                    continue
            try:
                edits = node.edits(grants, owner)
            except ValueError as error:
                if len(grants) == 1:
                    yield f"{item.plan.resource}: a container with one share is refused: {error}"
                continue
            kind: type = type(edits)
            if not issubclass(kind, ContainerEdits):
                yield f"edits() gives a {kind.__name__}"


def _cdi(subject: Subject) -> Wrong:
    exposure = subject.node.exposure() if isinstance(subject.node, RuntimeExposed) else None
    for item, grants, edits in _edits(subject):
        try:
            made = render(subject.vendor.name, "conformance", grants, edits, exposure, CDI)
            if made.spec is not None:
                check_cdi(made.spec)
        except (CannotInjectError, CDIError) as error:
            yield f"{item.plan.resource}: {error}"


def _response(subject: Subject) -> Wrong:
    exposure = subject.node.exposure() if isinstance(subject.node, RuntimeExposed) else None
    for item, grants, edits in _edits(subject):
        try:
            made = render(subject.vendor.name, "conformance", grants, edits, exposure, DIRECT)
        except CannotInjectError:
            continue  # the vendor needs CDI
        answer = container_response(made)
        for name in answer.envs:
            if not _VARIABLE.fullmatch(name):
                yield f"{item.plan.resource}: {name!r} is no name of a variable"
        paths = [(m.host_path, m.container_path) for m in answer.mounts]
        paths += [(d.host_path, d.container_path) for d in answer.devices]
        for path in (path for pair in paths for path in pair):
            if not path.startswith("/") or ".." in path.split("/"):
                yield f"{item.plan.resource}: {path!r} is no absolute path"
        inside = [m.container_path for m in answer.mounts]
        for path in {path for path in inside if inside.count(path) > 1}:
            yield f"{item.plan.resource}: two mounts go to {path}"
        for device in answer.devices:
            if set(device.permissions) - set("rwm"):
                yield f"{item.plan.resource}: {device.permissions!r} are no permissions of a device"


def _own(subject: Subject) -> Wrong:
    exposure = subject.node.exposure() if isinstance(subject.node, RuntimeExposed) else None
    for item in subject.offered:
        by_answer: dict[bytes, str] = {}
        for grants, edits in subject.handed(item):
            if len(grants) > 1:
                continue
            plain = replace(edits, hooks=())
            made = render(subject.vendor.name, "conformance", grants, plain, exposure, DIRECT)
            answer = container_response(made).SerializeToString(deterministic=True)
            uuid = grants[0].device.uuid
            if by_answer.setdefault(answer, uuid) != uuid:
                yield (
                    f"{item.plan.resource}: a container with {uuid} gets the same as one with "
                    f"{by_answer[answer]}: nothing says which device is its own"
                )
                return


def _read_back(subject: Subject) -> Wrong:
    node = subject.node
    if not isinstance(node, AnswerReader):
        raise NotApplicableError("no handed(): uuids or device nodes tell")
    exposure = node.exposure() if isinstance(node, RuntimeExposed) else None
    for item, grants, edits in _edits(subject):
        plain = replace(edits, hooks=(), additional_gids=())
        made = render(subject.vendor.name, "conformance", grants, plain, exposure, DIRECT)
        told = handed(container_response(made), tuple(item.table.devices.values()), node)
        wanted = {grant.device.uuid for grant in grants}
        if told != wanted:
            yield (
                f"{item.plan.resource}: handed() reads what a container with "
                f"{', '.join(sorted(wanted))} gets as {', '.join(sorted(told)) or 'nothing'}"
            )
            return


def _limits(subject: Subject) -> Wrong:
    """Half the memory must be something else in the container, and half the cores where the
    vendor's scheduling half counts them.
    """
    found = False
    for item, grants in subject.limited():
        if len(grants) > 1:
            continue  # parts of several devices may be refused
        halves = {"memory": _and_half(grants, "memory_mib")}
        if subject.counts_cores(item):
            halves["cores"] = _and_half(grants, "cores_percent")
        for what, both in halves.items():
            asked = [_asked(subject, item, given) for given in both]
            found = True
            if all(asked) and asked[0] == asked[1]:
                yield (
                    f"{item.plan.resource} promises limited shares, but half the {what} makes no "
                    "difference in the container"
                )
                return
    if not found:
        raise NotApplicableError("no resource promises limited shares")


def _and_half(grants: Sequence[Grant], amount: str) -> Iterator[tuple[Grant, ...]]:
    """The grants, with at least 2 of the amount, for of 1 there is no half; and with half of it."""
    for part in (1, 2):
        changed: list[Grant] = []
        for grant in grants:
            of: dict[str, Any] = {amount: max(2, getattr(grant, amount) or 2) // part}
            changed.append(replace(grant, **of))
        yield tuple(changed)


def _asked(subject: Subject, item: Offered, grants: Sequence[Grant]) -> tuple[object, ...]:
    """What the partition has to be and what the container gets; nothing where neither is told."""
    node, told = subject.node, []
    owner = subject.owner(item, scheduled=True, pod_uid="u", container="c")
    if isinstance(node, Slotted):
        told = [request for grant in grants if (request := node.slot_request(grant, owner))]
    try:
        edits = node.edits(grants, owner)
    except ValueError:
        return tuple(told)  # whether it may refuse is the check `edits`
    return (*told, replace(edits, env=dict(edits.env), annotations=dict(edits.annotations)))


def _pure(subject: Subject) -> Wrong:
    for item, grants, edits in _edits(subject):
        again = subject.backend().edits(grants, subject.owner(item))
        if (dict(again.env), again.device_nodes, again.mounts) != (
            dict(edits.env),
            edits.device_nodes,
            edits.mounts,
        ):
            yield f"{item.plan.resource}: the same grants give other edits the second time"
            return


def fingerprint(subject: Subject) -> str:
    """All edits of a vendor as text, in their order."""
    lines = []
    for item, grants, edits in _edits(subject):
        parts = (list(edits.env.items()), edits.device_nodes, edits.mounts, edits.hooks)
        lines.append(repr((item.plan.resource, [g.device.uuid for g in grants], parts)))
    return "\n".join(lines)


def _steady(subject: Subject) -> Wrong:
    """Sets have another order in another process: files that depend on it change for nothing."""
    next(iter(_edits(subject)))
    ask = f"{__name__}:{fingerprint.__name__}"
    told = {
        subject.in_process(ask, seconds=PATIENCE_SECONDS, PYTHONHASHSEED=seed)
        for seed in ("1", "2")
    }
    if len(told) > 1:
        yield "the order of what a container gets depends on the process: sort what comes from sets"


def _hostile(subject: Subject) -> Wrong:
    """What a stranger wrote is refused or ignored, and never raises anything else."""
    for item in subject.offered:
        for grants in item.grants():
            owner = subject.owner(
                item,
                scheduled=True,
                pod_uid="0",
                pod_namespace="n",
                pod_name="p",
                container="c" * 63,
                pod_annotations=HOSTILE,
                environment={"A": "\x00", "CUDA_VISIBLE_DEVICES": "all", "": "="},
            )
            node = subject.node
            try:
                if isinstance(node, Slotted) and any(
                    node.slot_request(grant, owner) is not None for grant in grants
                ):
                    continue
                node.edits(grants, owner)
            except ValueError:
                continue
            except Exception as error:
                raised = f"{type(error).__name__}: {error}"
                yield f"{item.plan.resource}: a stranger's pod raises {raised}"
                return


CHECKS = (
    Check(
        "edits",
        "a container with one share of any device is served",
        "pods are placed on the node and fail there",
        _served,
    ),
    Check(
        "cdi",
        "what a container gets is a legal CDI specification",
        "the container runtime refuses the container, and other plugins' files with it",
        _cdi,
    ),
    Check(
        "response",
        "what a container gets is a legal Allocate response",
        "the container runtime refuses the container with an error that names nobody",
        _response,
    ),
    Check(
        "own-device",
        "containers with different devices get different things",
        "all containers use the first card and nobody knows why it is slow",
        _own,
    ),
    Check(
        "read-back",
        "handed() finds the devices that edits() hands over",
        "a container that another plugin served starts with another's devices, or not again",
        _read_back,
    ),
    Check(
        "limits",
        "a promised limit reaches the container",
        "shares are sold that nothing holds apart",
        _limits,
    ),
    Check(
        "edits-pure",
        "edits() is a function of grants and owner",
        "a container that starts again gets something else",
        _pure,
    ),
    Check(
        "edits-steady",
        "edits are in the same order in every process",
        "files and responses change at each restart of the agent",
        _steady,
    ),
    Check(
        "hostile-pod",
        "a stranger's annotations and variables are refused or ignored",
        "one pod's author can break the agent for all",
        _hostile,
    ),
)
