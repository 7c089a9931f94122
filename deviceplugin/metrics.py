"""The agent's own metrics, all named ``deviceplugin_*``.

No label carries an unbounded value: resources, vendors, reasons and outcomes are few and fixed.
"""

from __future__ import annotations

from functools import partial

from prometheus_client.core import CollectorRegistry
from prometheus_client.metrics import Counter, Gauge, Histogram

from deviceplugin.version import __version__

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """One registry; implements `kubelet.service.Observer` for the gRPC side."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="deviceplugin")
        gauge = partial(Gauge, registry=self.registry, namespace="deviceplugin")
        histogram = partial(Histogram, registry=self.registry, namespace="deviceplugin")
        self.allocations = counter("allocations", "Containers served by Allocate.", ["resource"])
        self.allocate_seconds = histogram(
            "allocate_seconds",
            "Time to decide one container's allocation.",
            ["resource"],
            buckets=_SECONDS,
        )
        self.errors = counter("errors", "Refused or failed calls.", ["resource", "call", "reason"])
        self.devices = gauge(
            "devices", "Physical devices by state of health.", ["vendor", "health"]
        )
        self.virtual_devices = gauge(
            "virtual_devices",
            "Virtual devices shown to kubelet.",
            ["resource", "health"],
        )
        self.registered = gauge("registered", "1 while kubelet watches the resource.", ["resource"])
        self.registrations = counter(
            "registrations", "Register calls by outcome.", ["resource", "outcome"]
        )
        self.sends = counter("list_and_watch_sends", "Lists sent to kubelet.", ["resource"])
        self.probe_restarts = counter(
            "probe_restarts", "Probe processes started again.", ["vendor"]
        )
        self.probe_failures = counter(
            "probe_failures", "Probes that gave no snapshot, by cause.", ["vendor", "cause"]
        )
        self.impediment = gauge(
            "impediment",
            "1 while something keeps every device of the resource from being handed out.",
            ["resource"],
        )
        self.adopted = counter(
            "grants_adopted",
            "Grants of running containers that were not in the record of grants.",
            ["resource"],
        )
        self.vendor_errors = counter(
            "vendor_errors",
            "Calls of a vendor's own code in the agent that failed.",
            ["vendor", "call"],
        )
        self.events_dropped = gauge(
            "events_dropped", "Kubernetes events that could not be written, so far."
        )
        self.config_reloads = counter(
            "config_reloads", "Configuration reloads by outcome.", ["outcome"]
        )
        gauge("build_info", "Always 1.", ["version"]).labels(__version__).set(1)

    def sent(self, resource: str) -> None:
        """A list went out."""
        self.sends.labels(resource).inc()

    def allocated(self, resource: str, seconds: float) -> None:
        """A container was served."""
        self.allocations.labels(resource).inc()
        self.allocate_seconds.labels(resource).observe(seconds)

    def refused(self, resource: str, call: str, reason: str) -> None:
        """A call was refused."""
        self.errors.labels(resource, call, reason).inc()

    def forget_resource(self, resource: str) -> None:
        """A resource that is no longer served leaves no series that looks alive."""
        for series in (self.registered, self.impediment):
            series.remove(resource)
        for health in ("healthy", "unhealthy"):
            self.virtual_devices.remove(resource, health)
