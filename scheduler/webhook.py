"""What becomes of new pods, and who may write what was decided about them (hami-scheduler.md 2).

*Mutating*: pods that ask for a device get their vendor's defaults and the scheduler's name; those
that can never be served are refused with what to write instead. *Validating*: results are the
scheduler's and the agents' to write, nobody else's. Nothing here has an effect beyond the answer,
so that a dry run needs no care.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deviceplugin.api.hami.keys import WEBHOOK
from deviceplugin.placement.admit import admitted
from deviceplugin.placement.fit import Backends
from deviceplugin.placement.objects import pod_spec
from deviceplugin.placement.request import asks
from deviceplugin.scheduler.pods import result_annotations
from deviceplugin.scheduler.quota import Quotas
from deviceplugin.scheduler.review import Answer, Review, answered, json_patch, parse
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.vendor.scheduling import PodSpec, RefusedError, SchedulingBackend

__all__ = ["Webhook", "mutation", "privileged", "verdict"]

QUEUE = "kueue.x-k8s.io/queue-name"
SERVER_ERROR = 500
"""The code with which v2.8 refuses what a vendor refuses."""


class Webhook:
    """Answers reviews of pods."""

    def __init__(self, settings: SchedulerSettings, backends: Backends, quotas: Quotas) -> None:
        self._settings, self._quotas = settings, quotas
        self.serve(backends)

    def serve(self, backends: Backends) -> None:
        """Ask these backends from now on."""
        self._backends = backends
        self._protected = result_annotations(backends.values())

    async def mutate(self, body: bytes) -> bytes:
        """A new pod as it is to be stored. Raises `ReviewError` for what is no review."""
        review = parse(body)
        return answered(review, self._mutation(review))

    async def validate(self, body: bytes) -> bytes:
        """Whether somebody may write this. Raises `ReviewError` for what is no review."""
        review = parse(body)
        return answered(review, verdict(review, self._settings, self._protected))

    def _mutation(self, review: Review) -> Answer:
        if review.operation != "CREATE":
            return Answer()
        try:
            return mutation(review, self._settings, self._backends, self._quotas, self._protected)
        except RefusedError as error:
            return Answer(str(error), SERVER_ERROR)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            return Answer(f"not a pod: {error}", 400)


def mutation(
    review: Review,
    settings: SchedulerSettings,
    backends: Backends,
    quotas: Quotas,
    protected: frozenset[str],
) -> Answer:
    """What a new pod is changed to, in the order of hami-scheduler.md 2.2.

    Raises `RefusedError`, and `ValueError` for what is no pod.
    """
    before = review.pod
    pod = {**before, "metadata": dict(before["metadata"])}
    spec, metadata = pod["spec"], pod["metadata"]
    if (metadata.get("labels") or {}).get(WEBHOOK) == "ignore":
        return Answer()
    if not spec.get("containers"):
        return Answer("pod has no containers")
    warnings = _stripped(metadata, review.user, settings, protected)
    if not settings.takes(spec.get("schedulerName") or ""):
        return Answer(changes=list(json_patch(before, pod)), warnings=warnings)
    namespace = metadata.get("namespace") or review.namespace
    metadata_of_ours = {**metadata, "namespace": namespace}
    if text := privileged(pod_spec({**pod, "metadata": metadata_of_ours}), backends.values()):
        raise RefusedError(text)
    changed, words = admitted({**pod, "metadata": metadata_of_ours}, backends.values())
    if "namespace" not in metadata:
        del changed["metadata"]["namespace"]
    if words:
        changed["spec"]["schedulerName"] = settings.name
        if spec.get("nodeName"):
            return Answer(
                f"pod has node assigned: {settings.name} has to choose the node of a pod that asks "
                "for a device; remove spec.nodeName, or use a node selector"
            )
        placed = pod_spec({**changed, "metadata": {**changed["metadata"], "namespace": namespace}})
        asked = quotas.asked(asks(placed, backends.values()))
        later = _waits(changed)
        refused = (quotas.never if later else quotas.refusal)(namespace, asked)
        if refused is not None:
            return Answer(f"exceeding resource quota: {refused.detail}")
    return Answer(changes=list(json_patch(before, changed)), warnings=warnings)


def _waits(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is not to run yet, so that what is free now says nothing about it. Kueue's gate
    comes from a webhook that may be asked after this one, its label is there before.
    """
    labels = pod["metadata"].get("labels") or {}
    return bool(pod["spec"].get("schedulingGates")) or QUEUE in labels


def verdict(review: Review, settings: SchedulerSettings, protected: frozenset[str]) -> Answer:
    """Whether a user may write the results that a review would write. Pure."""
    if not settings.trusted or review.operation not in ("CREATE", "UPDATE"):
        return Answer()
    new = _annotations(review.pod)
    old = _annotations(review.old) if review.old is not None else {}
    moved = sorted(key for key in protected if new.get(key) != old.get(key))
    if not moved:
        return Answer()
    if review.user not in settings.trusted:
        return Answer(
            f"annotation {moved[0]} is written by the scheduler and the nodes' agents only, and "
            f"{review.user!r:.120} is none of their accounts: remove it"
        )
    bound = (review.pod.get("spec") or {}).get("nodeName") or ""
    if review.node and review.user in settings.agents and review.node != bound:
        return Answer(
            f"annotation {moved[0]}: the agent of node {review.node} may not write to a pod of "
            f"{f'node {bound}' if bound else 'no node yet'}"
        )
    return Answer()


def _stripped(
    metadata: dict[str, Any],
    user: str,
    settings: SchedulerSettings,
    protected: frozenset[str],
) -> list[str]:
    """Takes results off a new pod: copies of other pods have them, and forgers write them."""
    annotations = metadata.get("annotations") or {}
    found = sorted(annotations.keys() & protected)
    if not found or user in settings.trusted:
        return []
    metadata["annotations"] = {k: v for k, v in annotations.items() if k not in protected}
    return [f"annotation {key} says what a scheduler decided and was removed" for key in found]


def privileged(pod: PodSpec, backends: Iterable[SchedulingBackend]) -> str:
    """Why a pod may not ask for devices as it does: a container is privileged; empty where none is.
    Raises `RefusedError`.
    """
    for container in (*pod.init_containers, *pod.containers):
        if not container.privileged:
            continue
        for backend in backends:
            if backend.admit(container, pod).found:
                return (
                    f"container {container.name} is privileged and asks for "
                    f"{backend.resources.count}: it would see every device of the node, and no "
                    "limit would hold; remove securityContext.privileged, or the device"
                )
    return ""


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (pod.get("metadata") or {}).get("annotations") or {}
    return found if isinstance(found, Mapping) else {}
