"""The webhook: without it pods keep another scheduler, or ask for what can never be served.

Sources: deploy-observe-webui.md 4.3, 4.4; users-and-competitors.md 6.
"""

from __future__ import annotations

import base64
import binascii
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509

from deviceplugin.api.hami.keys import VGPU_NODE, WEBHOOK
from deviceplugin.apiserver.client import ApiError
from deviceplugin.doctor.fleet.scene import FleetScene, Json, collection, in_namespace
from deviceplugin.doctor.model import Finding, Group, NotCheckedError, Severity, Topic

__all__ = ["GROUP", "Hook", "WebhookFacts", "hooks_of"]

NAME = "webhook"
ADMISSION = "admissionregistration.k8s.io"
SOON = timedelta(days=14)
CONNECT_SECONDS = 3.0
TRIAL_NAMESPACE = "default"

MISSING = Topic(
    "webhook-missing",
    NAME,
    Severity.ERROR,
    "No webhook changes pods that ask for devices.",
    "Pods keep the scheduler that they name, usually default-scheduler, which knows no devices: "
    "they stay Pending, or are bound and refused by kubelet.",
    "Apply the scheduler's MutatingWebhookConfiguration (charts/plain, 50-webhooks.yaml).",
)
SILENT = Topic(
    "webhook-silent",
    NAME,
    Severity.ERROR,
    "A pod that asks for a device is not changed.",
    "A pod was created for trial, without storing it, and came back with another scheduler's name: "
    "the API server does not reach the webhook, or its selectors leave the namespace out.",
    "See that the Service has ready endpoints, that the control plane reaches them (firewall, "
    "hostNetwork), and what the API server's log says of the webhook.",
)
DOWN = Topic(
    "webhook-down",
    NAME,
    Severity.ERROR,
    "The API server cannot call the webhook.",
    "Pods that ask for a device cannot be created while this lasts.",
    "See the Service's endpoints, and the authority in the webhook's caBundle.",
)
UNSERVED = Topic(
    "webhook-unserved",
    NAME,
    Severity.ERROR,
    "Nobody answers behind the webhook's Service.",
    "The Service is missing or has no ready endpoint. With failurePolicy Ignore pods go past the "
    "webhook, with Fail they cannot be created.",
    "See why the scheduler's pods are not ready: kubectl get pods in the Service's namespace.",
)
NO_AUTHORITY = Topic(
    "webhook-authority-missing",
    NAME,
    Severity.ERROR,
    "The webhook names no authority that can be read.",
    "The API server trusts nobody's certificate there: every call fails.",
    "Let the scheduler issue its certificate (--tls-secret, --mutating-webhook), or have "
    "cert-manager inject the authority.",
)
EXPIRED = Topic(
    "webhook-authority-expired",
    NAME,
    Severity.ERROR,
    "The authority that the webhook trusts has expired.",
    "Every call fails: pods go past the webhook, or cannot be created.",
    "Empty the Secret of the scheduler's certificates, or renew it where it comes from.",
)
EXPIRES = Topic(
    "webhook-authority-expires",
    NAME,
    Severity.WARNING,
    "The authority that the webhook trusts expires within two weeks.",
    "After that every call fails.",
    "See why it is not renewed: the scheduler's log, or cert-manager.",
)
WRONG_AUTHORITY = Topic(
    "webhook-authority-wrong",
    NAME,
    Severity.ERROR,
    "The certificate that is served is not of the authority that the webhook trusts.",
    "Every call fails. Usually one of the two was renewed and the other was not.",
    "Write the authority of the served certificate into caBundle; the scheduler does so itself "
    "with --mutating-webhook.",
)
FAILS_OPEN = Topic(
    "webhook-fails-open",
    NAME,
    Severity.NOTE,
    "Pods are created also while the webhook is away.",
    "failurePolicy is Ignore: a pod that comes meanwhile keeps another scheduler. The scheduler "
    "looks for such pods once a minute and tells of them by the event CamePastWebhook.",
    "Set failurePolicy: Fail together with matchConditions, as charts/plain has it.",
)
UNPROTECTED = Topic(
    "decisions-unprotected",
    NAME,
    Severity.WARNING,
    "Anybody may write on a pod what a scheduler decided.",
    "Neither a ValidatingAdmissionPolicy nor a validating webhook guards the annotations of "
    "decisions: who may change his own pods can give himself devices.",
    "Apply charts/plain, 60-decisions.yaml, and 50-webhooks.yaml before Kubernetes 1.30.",
)


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of ours. `service` is ``namespace/name:port``, empty where it has a URL; `host`
    and `port` are where it is reached; `authority` its caBundle as PEM, `served` why the
    certificate that is served there is not trusted, None where nobody could look.
    """

    configuration: str
    name: str
    fails_open: bool
    service: str
    host: str
    port: int
    authority: bytes
    endpoints: int | None = None
    served: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookFacts:
    """`trial` is what became of a pod that was created for trial: its scheduler's name, None where
    that could not be tried; `refused` is what the API server said where it did not go through.
    """

    scheduler: str
    hooks: tuple[Hook, ...]
    protected: bool | None
    now: datetime
    trial: str | None = None
    refused: str = ""
    resource: str = ""


def gather(scene: FleetScene) -> WebhookFacts:
    """Ask for configurations and endpoints, look at the certificate, and try a pod."""
    asking, settings = scene.api(), scene.world.settings
    hooks = [
        _looked_at(scene, hook)
        for item in asking.some(collection(ADMISSION, "mutatingwebhookconfigurations"))
        for hook in hooks_of(item)
    ]
    resource = _resource(scene)
    trial, refused = _trial(scene, resource) if hooks and resource else (None, "")
    return WebhookFacts(
        settings.name, tuple(hooks), _protected(scene), scene.now, trial, refused, resource
    )


def hooks_of(item: Json) -> Iterator[Hook]:
    """The webhooks of a configuration that look at new pods and know HAMi's label, by which pods
    are left alone. Pure.
    """
    for entry in item.get("webhooks") or ():
        if not _sees_new_pods(entry) or WEBHOOK not in json.dumps(entry):
            continue
        client = entry.get("clientConfig") or {}
        service, url = client.get("service") or {}, urlsplit(str(client.get("url") or ""))
        name, namespace = service.get("name"), service.get("namespace")
        port = int(service.get("port") or 443) if service else url.port or 443
        try:
            authority = base64.b64decode(str(client.get("caBundle") or ""), validate=True)
        except binascii.Error:
            authority = b""
        yield Hook(
            str((item.get("metadata") or {}).get("name")),
            str(entry.get("name")),
            entry.get("failurePolicy") == "Ignore",
            f"{namespace}/{name}:{port}" if service else "",
            f"{name}.{namespace}.svc" if service else str(url.hostname or ""),
            port,
            authority,
        )


def _sees_new_pods(entry: Json) -> bool:
    return any(
        {"CREATE", "*"} & set(rule.get("operations") or ())
        and {"pods", "*", "*/*"} & set(rule.get("resources") or ())
        for rule in entry.get("rules") or ()
    )


def _looked_at(scene: FleetScene, hook: Hook) -> Hook:
    endpoints = None
    if hook.service:
        namespace, _, rest = hook.service.partition("/")
        slices = scene.api().some(
            in_namespace(namespace, "endpointslices", group="discovery.k8s.io"),
            labelSelector=f"kubernetes.io/service-name={rest.partition(':')[0]}",
        )
        endpoints = sum(
            (endpoint.get("conditions") or {}).get("ready") is not False
            for one in slices
            for endpoint in one.get("endpoints") or ()
        )
    return replace(hook, endpoints=endpoints, served=_served(hook))


def _served(hook: Hook) -> str | None:
    """Why the certificate at the webhook's address is not trusted, empty where it is; None where
    the address is not reached from here, as usually outside of the cluster.
    """
    if not hook.authority or not hook.host:
        return None
    try:
        context = ssl.create_default_context(cadata=hook.authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return None
    try:
        with (
            socket.create_connection((hook.host, hook.port), CONNECT_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=hook.host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message or str(error)
    except OSError:
        return None


def _resource(scene: FleetScene) -> str:
    """Something that a pod may ask for, offered by a node if there is one that offers anything."""
    names = [backend.resources.count for backend in scene.world.backends.values()]
    for node in scene.world.cluster.names():
        record = scene.world.cluster.record(node)
        for name in names:
            if record is not None and record.facts.allocatable.get(name):
                return name
    return names[0] if names else ""


def _trial(scene: FleetScene, resource: str) -> tuple[str | None, str]:
    """What a new pod's scheduler would be, and what the API server says where it may not be."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "deviceplugin-doctor-", "namespace": TRIAL_NAMESPACE},
        "spec": {
            "containers": [
                {
                    "name": "trial",
                    "image": "trial",
                    "resources": {"limits": {resource: "1"}, "requests": {resource: "1"}},
                }
            ]
        },
    }
    try:
        stored = scene.api().tried(in_namespace(TRIAL_NAMESPACE, "pods"), body)
    except ApiError as error:
        return None, str(error)
    return str((stored.get("spec") or {}).get("schedulerName") or ""), ""


def _protected(scene: FleetScene) -> bool | None:
    """Whether somebody guards decisions; None where that could not be asked."""
    try:
        guards = [
            *scene.api().some(collection(ADMISSION, "validatingadmissionpolicies")),
            *scene.api().some(collection(ADMISSION, "validatingwebhookconfigurations")),
        ]
    except NotCheckedError:
        return None
    return any(VGPU_NODE in json.dumps(item.get("spec") or item.get("webhooks")) for item in guards)


def _missing(facts: WebhookFacts) -> Iterator[Finding]:
    if not facts.hooks:
        yield MISSING.found(
            f"no MutatingWebhookConfiguration looks at new pods and knows the label {WEBHOOK}"
        )


def _answers(facts: WebhookFacts) -> Iterator[Finding]:
    asked = f"a pod for trial in namespace {TRIAL_NAMESPACE} that asks for {facts.resource}: 1"
    if "failed calling webhook" in facts.refused:
        yield DOWN.found("the API server does not get through to a webhook", facts.refused)
    elif facts.trial is not None and facts.trial != facts.scheduler:
        said = facts.trial or "none"
        yield SILENT.found(f"a new pod keeps scheduler {said}", asked)


def _served_at(facts: WebhookFacts) -> Iterator[Finding]:
    for hook in facts.hooks:
        if hook.endpoints == 0:
            yield UNSERVED.found(
                f"Service {hook.service} has no ready endpoint",
                f"webhook {hook.name} of {hook.configuration}",
            )


def _authority(facts: WebhookFacts) -> Iterator[Finding]:
    for hook in facts.hooks:
        where = f"webhook {hook.name} of {hook.configuration}"
        try:
            certificates = x509.load_pem_x509_certificates(hook.authority)
        except ValueError:
            certificates = []
        if not certificates:
            if hook.service:
                yield NO_AUTHORITY.found(f"{where} has no caBundle", f"Service {hook.service}")
            continue
        # Of several authorities the one that lasts longest counts: old and new stand side by side.
        last = max(certificate.not_valid_after_utc for certificate in certificates)
        until = f"until {last:%Y-%m-%d %H:%M} UTC"
        if last <= facts.now:
            yield EXPIRED.found(f"the authority of {where} was valid {until}")
        elif last - facts.now < SOON:
            yield EXPIRES.found(f"the authority of {where} is valid {until}")
        if hook.served:
            yield WRONG_AUTHORITY.found(
                f"{where} does not trust what is served at {hook.host}:{hook.port}", hook.served
            )


def _policy(facts: WebhookFacts) -> Iterator[Finding]:
    for hook in facts.hooks:
        if hook.fails_open:
            yield FAILS_OPEN.found(
                f"webhook {hook.name} of {hook.configuration} has failurePolicy Ignore"
            )
    if facts.protected is False:
        yield UNPROTECTED.found(f"nobody guards the annotation {VGPU_NODE} and its like")


GROUP = Group(
    NAME,
    (
        MISSING,
        SILENT,
        DOWN,
        UNSERVED,
        NO_AUTHORITY,
        EXPIRED,
        WRONG_AUTHORITY,
        EXPIRES,
        UNPROTECTED,
        FAILS_OPEN,
    ),
    gather,
    (_missing, _answers, _served_at, _authority, _policy),
)
