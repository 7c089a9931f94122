"""What the scheduler's certificate looks like from outside."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deviceplugin.scheduler.certificates.issued import IssuedCertificate
from deviceplugin.scheduler.certificates.serving import Serving

__all__ = ["CertificateMetrics"]


class CertificateMetrics(Collector):
    """Of the certificate in force, and where the replicas issue it, of what belongs to it."""

    def __init__(self, serving: Serving, issued: IssuedCertificate | None = None) -> None:
        self._serving, self._issued = serving, issued

    def collect(self) -> Iterator[Metric]:
        """One metric after the other; asked from the scraping thread."""
        ends = GaugeMetricFamily(
            "deviceplugin_certificate_not_after_timestamp_seconds",
            "When a certificate ends: the one that is served, and the newest authority.",
            labels=("certificate",),
        )
        if (pair := self._serving.pair) is not None:
            ends.add_metric(("serving",), pair.certificate.not_valid_after_utc.timestamp())
        kept = self._issued.kept if self._issued else None
        if kept is not None:
            authority = kept.authorities[0].certificate
            ends.add_metric(("authority",), authority.not_valid_after_utc.timestamp())
        yield ends
        yield CounterMetricFamily(
            "deviceplugin_certificate_reload_failures",
            "Certificates that were not taken, the one in force staying, so far.",
            value=self._serving.failures,
        )
        if self._issued is not None:
            yield GaugeMetricFamily(
                "deviceplugin_certificate_authorities",
                "Authorities that are to be trusted: two while one replaces the other.",
                value=len(kept.authorities) if kept is not None else 0,
            )
            published = GaugeMetricFamily(
                "deviceplugin_certificate_published",
                "Whether a webhook configuration trusts the scheduler's authorities.",
                labels=("configuration",),
            )
            for one, is_published in self._issued.publishing.published.items():
                published.add_metric((str(one),), is_published)
            yield published
