"""The pods of this node that ask for devices: which cannot start, and which are not limited.

Sources: users-and-competitors.md 1, 2, 16; hami-nvidia-node.md 3.1, 3.6; hami-scheduler.md 3.7;
deploy-observe-webui.md 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami import pod as wire
from deviceplugin.api.hami.errors import AnnotationError
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, VendorKeys
from deviceplugin.apiserver import objects
from deviceplugin.apiserver.objects import Container, Pod
from deviceplugin.doctor.cluster import Json
from deviceplugin.doctor.model import Finding, Group, Severity, Topic
from deviceplugin.doctor.scene import Driver, Scene
from deviceplugin.scheduled.matching import NoGrantError, assignments
from deviceplugin.scheduled.patches import FAILED

__all__ = ["GROUP", "PodFacts", "PodsFacts"]

NAME = "pods"
OWN_LABEL, OWN_NAME = "app.kubernetes.io/name", "deviceplugin"
REJECTED = "UnexpectedAdmissionError"
ALLOCATING = "allocating"
PATIENCE = timedelta(minutes=5)
"""After which nobody serves a pod any more (hami-scheduler.md 3.6)."""

TRUE_WORDS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
NOTHING_VISIBLE = frozenset({"", "none", "void"})
PRELOAD = "/etc/ld.so.preload"

BIND_FAILED = Topic(
    "pod-bind-failed",
    NAME,
    Severity.ERROR,
    "A pod could not be given its devices.",
    "A node agent wrote bind-phase failed: the pod will not start any more, although it may look "
    "Pending.",
    "See the pod's events and the agent's log for the reason, then delete the pod.",
)
ALLOCATING_LONG = Topic(
    "pod-allocating-long",
    NAME,
    Severity.ERROR,
    "A pod has waited for its devices for more than five minutes.",
    "It was bound here and nobody has served it; its node lock has expired meanwhile. Its devices "
    "stay counted as used.",
    "See that the agent of its vendor runs; then delete the pod, whose controller makes another.",
)
REJECTED_POD = Topic(
    "pod-rejected",
    NAME,
    Severity.WARNING,
    "Kubelet refused a pod its devices.",
    "The pod failed at admission (UnexpectedAdmissionError) and is never tried again; often it "
    "came back before the plugin did, after a restart of the node.",
    "Delete it. If it keeps happening, see why the agent registers late.",
)
WITHOUT_GRANT = Topic(
    "pod-without-grant",
    NAME,
    Severity.ERROR,
    "A pod asks for devices that no scheduler gave it.",
    "Schedulers decide here who gets what, and this pod came past them: by spec.nodeName, by "
    "another schedulerName, or because the webhook did not see it. It cannot be served.",
    "Set its schedulerName, use a nodeSelector instead of nodeName, and see that the webhook is "
    "reachable (failurePolicy).",
)
GRANT_INCOMPLETE = Topic(
    "pod-grant-incomplete",
    NAME,
    Severity.ERROR,
    "A container asks for devices and its pod's annotation has none for it.",
    "A scheduler gave devices to the other containers only, as HAMi's of version 2.8 does beside "
    "init containers, or to a number of containers that does not fit. The container is refused.",
    "Ask for the devices in regular containers only, or use a scheduler that serves init "
    "containers (HAMi 2.9 and newer).",
)
ANNOTATION_UNREADABLE = Topic(
    "pod-annotation-unreadable",
    NAME,
    Severity.ERROR,
    "What a scheduler wrote on a pod cannot be read.",
    "The agent refuses such a pod instead of guessing which devices it has.",
    "Delete the pod, and see who wrote the annotation.",
)
SETS_LIMITS = Topic(
    "pod-sets-limits",
    NAME,
    Severity.ERROR,
    "A pod sets the variables that limit it.",
    "The pod's own value would win over ours, so the container is refused.",
    "Remove the variable and ask for less by the resources beside the device.",
)
DISABLES_CONTROL = Topic(
    "pod-disables-control",
    NAME,
    Severity.WARNING,
    "A pod switches its limits off.",
    "libvgpu then limits nothing in the container. It is refused, unless the operator allows it "
    "(nvidia.allowDisableControl).",
    "Remove CUDA_DISABLE_CONTROL from the pod.",
)
PRIVILEGED = Topic(
    "pod-privileged",
    NAME,
    Severity.WARNING,
    "A privileged container has a share of a device.",
    "It sees every device of the node and can undo every limit; HAMi's webhook leaves such pods "
    "alone.",
    "Take privileged off the container.",
)
SEES_ALL = Topic(
    "pod-sees-devices",
    NAME,
    Severity.WARNING,
    "A container sees devices that it did not ask for.",
    "It sets the variable by which the vendor's runtime hands out devices, and asks for none: what "
    "it uses is counted nowhere and limited by nothing.",
    "Ask for the resource, or set the variable to none; let the runtime ignore it for containers "
    "without privileges (accept-nvidia-visible-devices-envvar-when-unprivileged = false).",
)
OWN_PRELOAD = Topic(
    "pod-own-preload",
    NAME,
    Severity.WARNING,
    "A pod mounts something where libvgpu is loaded from.",
    "With a mount of its own over /etc/ld.so.preload or the library's directory the limits do not "
    "reach the container, or it does not start.",
    "Mount it elsewhere; use LD_PRELOAD for other libraries.",
)
INIT_DEFERRED = Topic(
    "pod-init-container",
    NAME,
    Severity.WARNING,
    "An ordinary init container asks for devices on a node with deferred allocation.",
    "Kubelet's PodResources never lists ordinary init containers. Only kubelet's own record tells "
    "who they are; while that is not readable they wait, and limits by annotation do "
    "not reach them.",
    "Move the work into a container or a sidecar (restartPolicy: Always), or use scheduled-locked.",
)
INIT_UNLOCKED = Topic(
    "pod-init-only",
    NAME,
    Severity.ERROR,
    "Only init containers of a pod ask for devices, on a node that finds pods by the lock.",
    "Schedulers of version 2.8 take no lock for such a pod, so it cannot be told from others and "
    "is refused.",
    "Ask for the devices in a regular container as well, or use scheduled-deferred.",
)
COMPETITOR = Topic(
    "plugin-competitor-pod",
    NAME,
    Severity.ERROR,
    "A pod of another device plugin for the same devices is on this node.",
    "It mounts kubelet's directory of device plugins. Whoever registers last gets the allocations: "
    "capacity flips between shares and whole cards, and pods get devices that nobody limits.",
    "Remove one of them: the GPU operator by devicePlugin.enabled=false in its values, NVIDIA's or "
    "HAMi's plugin by its DaemonSet or a node selector.",
)


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod, and what its projection leaves out. `privileged` are names of containers, `mounts`
    pairs of container and path; `images` and `host_paths` are those of the whole pod.
    """

    pod: Pod
    reason: str = ""
    scheduler: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    privileged: frozenset[str] = frozenset()
    mounts: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()
    host_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodsFacts:
    """The pods of the node with the part of the scene that they are judged by."""

    pods: tuple[PodFacts, ...]
    scene: Scene

    def asking(self) -> Iterator[tuple[PodFacts, str, VendorKeys, tuple[Container, ...]]]:
        """Pods that are not over, with a resource of ours and the containers that ask for it."""
        for one in self.pods:
            if one.pod.ended:
                continue
            for resource, keys in self.scene.resources.items():
                found = tuple(c for c in one.pod.all_containers() if c.requests.get(resource))
                if found:
                    yield one, resource, keys, found


def gather(scene: Scene) -> PodsFacts:
    """Ask for the pods of the node."""
    found = []
    for item in scene.api().pods(scene.node_name):
        try:
            found.append(_facts(item))
        except (ValueError, TypeError, AttributeError, KeyError):
            continue  # no API server stores such a pod
    return PodsFacts(tuple(found), scene)


def _facts(item: Json) -> PodFacts:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return PodFacts(
        pod=objects.pod(item),
        reason=str(status.get("reason") or ""),
        scheduler=str(spec.get("schedulerName") or ""),
        labels={str(k): str(v) for k, v in (item["metadata"].get("labels") or {}).items()},
        privileged=frozenset(str(c["name"]) for c in containers if _is_privileged(c)),
        mounts=tuple(
            (str(c["name"]), str(mount.get("mountPath") or ""))
            for c in containers
            for mount in c.get("volumeMounts") or ()
        ),
        images=tuple(str(c.get("image") or "") for c in containers),
        host_paths=tuple(
            str(volume["hostPath"].get("path") or "")
            for volume in spec.get("volumes") or ()
            if volume.get("hostPath")
        ),
    )


def _is_privileged(container: Mapping[str, Any]) -> bool:
    return bool((container.get("securityContext") or {}).get("privileged"))


def _bind(facts: PodsFacts) -> Iterator[Finding]:
    for one, resource, _, _ in facts.asking():
        pod = one.pod
        phase = pod.annotations.get(BIND_PHASE)
        if pod.phase != "Pending" or not facts.scene.scheduled:
            continue
        if phase == FAILED:
            yield BIND_FAILED.found(
                f"pod {pod.key} was not given its {resource}",
                f"{BIND_PHASE}: {phase}",
                remedy=f"See kubectl describe pod {pod.name} -n {pod.namespace}, then delete it.",
            )
        elif phase == ALLOCATING and (since := _waited(pod, facts.scene.now)) > PATIENCE:
            yield ALLOCATING_LONG.found(
                f"pod {pod.key} has waited {since.total_seconds() / 60:.0f} minutes for its "
                f"{resource}",
                f"{BIND_PHASE}: {phase}, {BIND_TIME}: {pod.annotations[BIND_TIME]:.40}",
            )


def _waited(pod: Pod, now: datetime) -> timedelta:
    """Since it was bound; nothing where that cannot be read."""
    try:
        return now - wire.decode_time(pod.annotations.get(BIND_TIME, ""), BIND_TIME)
    except AnnotationError:
        return timedelta(0)


def _rejected(facts: PodsFacts) -> Iterator[Finding]:
    for one in facts.pods:
        asks = any(
            c.requests.get(resource)
            for c in one.pod.all_containers()
            for resource in facts.scene.resources
        )
        if asks and one.pod.phase == "Failed" and one.reason == REJECTED:
            yield REJECTED_POD.found(
                f"pod {one.pod.key} was refused by kubelet",
                f"status: {REJECTED}",
                remedy=f"kubectl delete pod {one.pod.name} -n {one.pod.namespace}",
            )


def _grants(facts: PodsFacts) -> Iterator[Finding]:
    if not facts.scene.scheduled:
        return
    for one, resource, keys, containers in facts.asking():
        try:
            grant = wire.pod_devices(one.pod.annotations, keys)
            phase = one.pod.annotations.get(BIND_PHASE)
            if phase is not None:
                wire.decode_phase(phase)
        except AnnotationError as error:
            yield ANNOTATION_UNREADABLE.found(
                f"the annotations of pod {one.pod.key} are malformed", str(error)
            )
            continue
        if not any(grant):
            yield WITHOUT_GRANT.found(
                f"pod {one.pod.key} asks for {resource} and no scheduler gave it any",
                f"no devices in {keys.allocated}",
                f"schedulerName: {one.scheduler or 'none'}",
            )
            continue
        try:
            served = {item.container.name for item in assignments(one.pod, keys, resource)}
        except NoGrantError as error:
            yield GRANT_INCOMPLETE.found(
                f"which containers of pod {one.pod.key} get {resource} cannot be told", str(error)
            )
            continue
        if left := [item.name for item in containers if item.name not in served]:
            yield GRANT_INCOMPLETE.found(
                f"pod {one.pod.key} has no {resource} for all that ask for it",
                f"nothing for {', '.join(left)} in {keys.allocated}",
            )


def _variables(facts: PodsFacts) -> Iterator[Finding]:
    scene = facts.scene
    for one, _, _, containers in facts.asking():
        for container in containers:
            own = {*container.env, *container.derived_env}
            where = f"container {container.name} of pod {one.pod.key}"
            if scene.limit_variables and (
                found := sorted(name for name in own if name.startswith(scene.limit_variables))
            ):
                yield SETS_LIMITS.found(f"{where} sets {', '.join(found)}")
            if container.env.get(scene.control_variable) in TRUE_WORDS:
                yield DISABLES_CONTROL.found(f"{where} sets {scene.control_variable}")


def _privileged(facts: PodsFacts) -> Iterator[Finding]:
    for one, resource, _, containers in facts.asking():
        names = sorted(c.name for c in containers if c.name in one.privileged)
        if names:
            yield PRIVILEGED.found(
                f"pod {one.pod.key} is privileged and asks for {resource}",
                f"containers {', '.join(names)}",
            )


def _visible(facts: PodsFacts) -> Iterator[Finding]:
    for one in facts.pods:
        if one.pod.ended or _is_ours(one) or _competes(one, facts.scene):
            continue
        for container in one.pod.all_containers():
            if any(container.requests.get(resource) for resource in facts.scene.resources):
                continue
            for name in facts.scene.visible_variables:
                value = container.env.get(name, "")
                if value not in NOTHING_VISIBLE:
                    yield SEES_ALL.found(
                        f"container {container.name} of pod {one.pod.key} sees devices and asks "
                        "for none",
                        f"{name}={value:.60}",
                    )


def _preload(facts: PodsFacts) -> Iterator[Finding]:
    if not facts.scene.limits:
        return
    library = facts.scene.places.library
    for one, _, _, containers in facts.asking():
        names = {container.name for container in containers}
        for container, path in one.mounts:
            inside = path == library or path.startswith(f"{library}/")
            if container in names and (path == PRELOAD or inside):
                yield OWN_PRELOAD.found(
                    f"container {container} of pod {one.pod.key} mounts its own {path}"
                )


def _init(facts: PodsFacts) -> Iterator[Finding]:
    for one, resource, _, containers in facts.asking():
        init = [container.name for container in containers if container.is_ordinary_init]
        if not init or one.pod.phase != "Pending":
            continue
        if facts.scene.deferred:
            yield INIT_DEFERRED.found(
                f"init container {init[0]} of pod {one.pod.key} asks for {resource}"
            )
        elif facts.scene.scheduled and len(init) == len(containers):
            yield INIT_UNLOCKED.found(
                f"only init containers of pod {one.pod.key} ask for {resource}",
                f"containers {', '.join(init)}",
            )


def _competitors(facts: PodsFacts) -> Iterator[Finding]:
    for one in facts.pods:
        if one.pod.ended or _is_ours(one):
            continue
        if driver := _competes(one, facts.scene):
            yield COMPETITOR.found(
                f"pod {one.pod.key} is another plugin for {driver.vendor}",
                f"it mounts {facts.scene.places.plugin_dir}",
                f"images {', '.join(sorted(set(one.images)))}",
            )


def _is_ours(one: PodFacts) -> bool:
    names = {image.rpartition("/")[2].partition(":")[0].partition("@")[0] for image in one.images}
    return one.labels.get(OWN_LABEL) == OWN_NAME or OWN_NAME in names


def _competes(one: PodFacts, scene: Scene) -> Driver | None:
    directory = scene.places.plugin_dir.rstrip("/")
    if not any(path.rstrip("/") == directory for path in one.host_paths):
        return None
    text = " ".join((one.pod.name, *one.images)).lower()
    return next(
        (driver for driver in scene.drivers if any(word in text for word in driver.words)), None
    )


GROUP = Group(
    NAME,
    (
        BIND_FAILED,
        ALLOCATING_LONG,
        WITHOUT_GRANT,
        GRANT_INCOMPLETE,
        ANNOTATION_UNREADABLE,
        SETS_LIMITS,
        INIT_UNLOCKED,
        COMPETITOR,
        REJECTED_POD,
        DISABLES_CONTROL,
        PRIVILEGED,
        SEES_ALL,
        OWN_PRELOAD,
        INIT_DEFERRED,
    ),
    gather,
    (
        _bind,
        _rejected,
        _grants,
        _variables,
        _privileged,
        _visible,
        _preload,
        _init,
        _competitors,
    ),
)
