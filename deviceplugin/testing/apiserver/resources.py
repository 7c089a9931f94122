"""Which collections there are, and what is special about each. Another one is one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection. `fields` are the field selectors that a real server takes for it besides
    metadata.name and metadata.namespace; `frozen` are the top-level fields that no update changes,
    but for lists in them, `shrinking`, which may lose members.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    shrinking: frozenset[str] = frozenset()

    @property
    def api_version(self) -> str:
        """``group/version``, or ``v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """The path before namespaces and names."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


def _some(*names: str) -> frozenset[str]:
    return frozenset(names)


_DRA = ("resource.k8s.io", "v1")
_ADMISSION = ("admissionregistration.k8s.io", "v1")

RESOURCES = (
    Resource(
        "",
        "v1",
        "pods",
        "Pod",
        subresources=_some("status", "binding", "eviction"),
        fields=_some("spec.nodeName", "spec.schedulerName", "spec.restartPolicy", "status.phase"),
        frozen=_some("spec"),
        shrinking=_some("schedulingGates"),
    ),
    Resource(
        "",
        "v1",
        "nodes",
        "Node",
        namespaced=False,
        subresources=_some("status"),
        fields=_some("spec.unschedulable"),
    ),
    Resource("", "v1", "namespaces", "Namespace", namespaced=False, subresources=_some("status")),
    Resource(
        "",
        "v1",
        "events",
        "Event",
        fields=_some("involvedObject.name", "involvedObject.kind", "reason", "type"),
    ),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "services", "Service", subresources=_some("status")),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    Resource("", "v1", "secrets", "Secret", fields=_some("type")),
    Resource("", "v1", "resourcequotas", "ResourceQuota", subresources=_some("status")),
    Resource(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        subresources=_some("status"),
    ),
    Resource("apps", "v1", "daemonsets", "DaemonSet", subresources=_some("status")),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource(*_ADMISSION, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False),
    Resource(
        *_ADMISSION, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False
    ),
    Resource(*_ADMISSION, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", False),
    Resource(*_DRA, "resourceslices", "ResourceSlice", False),
    Resource(*_DRA, "resourceclaims", "ResourceClaim", subresources=_some("status")),
    Resource(*_DRA, "resourceclaimtemplates", "ResourceClaimTemplate"),
    Resource(*_DRA, "deviceclasses", "DeviceClass", False),
)
