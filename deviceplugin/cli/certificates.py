"""The flags that say where the scheduler's certificate comes from."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deviceplugin.cli.values import Host, Name

if TYPE_CHECKING:
    from ssl import SSLContext

    from prometheus_client.registry import Collector

    from deviceplugin.apiserver.client import Api
    from deviceplugin.scheduler.certificates.issued import IssuedCertificate
    from deviceplugin.scheduler.certificates.serving import Serving

__all__ = ["CertificateFlags", "Source", "certificate_options", "source"]

C = TypeVar("C", bound=Callable[..., Any])

ALWAYS = ("127.0.0.1", "::1", "localhost")
"""kube-scheduler in the same pod, and whoever looks at the process from beside it."""


@dataclass(frozen=True, slots=True)
class CertificateFlags:
    """As given."""

    cert_file: str
    key_file: str
    tls_secret: str
    tls_secret_namespace: str
    tls_hosts: tuple[str, ...]
    mutating: tuple[str, ...]
    validating: tuple[str, ...]

    @staticmethod
    def taken_from(values: dict[str, Any]) -> CertificateFlags:
        """Of a command's values, which are left with the others. Raises `click.UsageError` for
        flags that do not go together.
        """
        given = CertificateFlags(**{f.name: values.pop(f.name) for f in fields(CertificateFlags)})
        if bool(given.cert_file) != bool(given.key_file):
            raise click.UsageError("--cert_file and --key_file are given together or not at all")
        if given.cert_file and given.tls_secret:
            raise click.UsageError(
                "--cert_file serves a certificate that somebody else renews, --tls-secret one that "
                "is issued here: give one of them"
            )
        if given.tls_secret and not given.tls_secret_namespace:
            raise click.UsageError(
                "--tls-secret needs to know where the Secret is: give --tls-secret-namespace, or "
                "POD_NAMESPACE in the environment"
            )
        if (given.mutating or given.validating or given.tls_hosts) and not given.tls_secret:
            raise click.UsageError(
                "--tls-host, --mutating-webhook and --validating-webhook belong to a certificate "
                "that is issued here: give --tls-secret, or see to the caBundle yourself"
            )
        return given


def certificate_options(command: C) -> C:
    """Adds the flags to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--cert_file",
        metavar="FILE",
        default="",
        help="PEM certificate that somebody else renews; read again whenever it changes.",
    ),
    click.option("--key_file", metavar="FILE", default="", help="PEM key of the certificate."),
    click.option(
        "--tls-secret",
        metavar="NAME",
        default="",
        type=Name("Secret"),
        help="Issue and renew the certificate here and keep it in this Secret, which all replicas "
        "share, in place of --cert_file. Without either it is plain HTTP.",
    ),
    click.option(
        "--tls-secret-namespace",
        metavar="NAMESPACE",
        default="",
        type=Name("Namespace"),
        envvar="POD_NAMESPACE",
        show_envvar=True,
        help="Its namespace.",
    ),
    click.option(
        "--tls-host",
        "tls_hosts",
        multiple=True,
        type=Host(),
        help="A host name or address that the certificate is for, beside those of loopback: "
        "SERVICE.NAMESPACE.svc; repeatable.",
    ),
    click.option(
        "--mutating-webhook",
        "mutating",
        metavar="NAME",
        multiple=True,
        type=Name("MutatingWebhookConfiguration"),
        help="A MutatingWebhookConfiguration whose caBundle is kept; repeatable.",
    ),
    click.option(
        "--validating-webhook",
        "validating",
        metavar="NAME",
        multiple=True,
        type=Name("ValidatingWebhookConfiguration"),
        help="A ValidatingWebhookConfiguration whose caBundle is kept; repeatable.",
    ),
)


@dataclass(frozen=True, slots=True)
class Source:
    """What comes of the flags: what to listen with (None: plain HTTP), what runs beside, by name,
    what is in the way of readiness, and metrics.
    """

    context: SSLContext | None = None
    parts: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    blockers: Callable[[], Mapping[str, str]] = dict
    collectors: tuple[Collector, ...] = ()


def source(given: CertificateFlags, api: Api) -> Source:
    """Raises `CertificateError` for files that cannot be used."""
    if not given.cert_file and not given.tls_secret:
        return Source()
    from deviceplugin.scheduler.certificates.files import CertificateFiles
    from deviceplugin.scheduler.certificates.metrics import CertificateMetrics
    from deviceplugin.scheduler.certificates.serving import Serving

    serving = Serving(f"Secret {given.tls_secret} was not read yet")
    if given.tls_secret:
        issued = _issued(given, api, serving)
        run, metrics = issued.run, CertificateMetrics(serving, issued)
    else:
        files = CertificateFiles(Path(given.cert_file), Path(given.key_file), serving)
        files.load()
        run, metrics = files.run, CertificateMetrics(serving)
    return Source(serving.context, {"certificate": run}, serving.blockers, (metrics,))


def _issued(given: CertificateFlags, api: Api, serving: Serving) -> IssuedCertificate:
    from deviceplugin.scheduler.certificates.issued import IssuedCertificate
    from deviceplugin.scheduler.certificates.publishing import MUTATING, VALIDATING, Configuration

    return IssuedCertificate(
        api,
        given.tls_secret_namespace,
        given.tls_secret,
        (*ALWAYS, *given.tls_hosts),
        (
            *(Configuration(MUTATING, name) for name in given.mutating),
            *(Configuration(VALIDATING, name) for name in given.validating),
        ),
        serving,
    )
