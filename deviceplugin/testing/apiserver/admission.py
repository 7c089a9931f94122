"""Calls admission webhooks as an API server does: mutating ones in order, then validating ones.

Configured by stored MutatingWebhookConfiguration and ValidatingWebhookConfiguration objects whose
clientConfig has a `url`; a `service` has no address here.
"""

from __future__ import annotations

import base64
import json
import ssl
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from deviceplugin.testing.apiserver import patching
from deviceplugin.testing.apiserver.resources import Resource
from deviceplugin.testing.apiserver.selectors import by_labels
from deviceplugin.testing.apiserver.status import StatusError

Object = dict[str, Any]

KINDS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


@dataclass(frozen=True, slots=True)
class Change:
    """What is about to be stored; `old` is None for a new object."""

    resource: Resource
    operation: str
    new: Object
    old: Object | None
    user: str
    dry_run: bool = False


def admitted(change: Change, hooks: Callable[[str], list[Object]]) -> Object:
    """The object as the webhooks want it. Raises `StatusError` when one of them refuses.

    `hooks` lists the configurations of one of `KINDS`.
    """
    new = change.new
    for kind in KINDS:
        for hook in _matching(change, hooks(kind)):
            new = _call(hook, change, new, mutates=kind == KINDS[0])
    return new


def _matching(change: Change, configurations: list[Object]) -> Iterator[Object]:
    for configuration in sorted(configurations, key=lambda item: item["metadata"]["name"]):
        for hook in configuration.get("webhooks") or ():
            wanted = any(_rule(rule, change) for rule in hook.get("rules") or ())
            if wanted and _selects(hook.get("objectSelector"), change.new):
                yield hook


def _rule(rule: Mapping[str, Any], change: Change) -> bool:
    resource = change.resource
    return (
        bool({"*", change.operation} & set(rule.get("operations") or ()))
        and bool({"*", resource.group} & set(rule.get("apiGroups") or ()))
        and bool({"*", resource.plural} & set(rule.get("resources") or ()))
    )


def _selects(selector: Mapping[str, Any] | None, item: Object) -> bool:
    """A label selector as an object, in the words of the textual one."""
    parts = [f"{key}={value}" for key, value in ((selector or {}).get("matchLabels") or {}).items()]
    for rule in (selector or {}).get("matchExpressions") or ():
        values = ",".join(rule.get("values") or ())
        parts.append(
            {
                "In": f"{rule['key']} in ({values})",
                "NotIn": f"{rule['key']} notin ({values})",
                "Exists": rule["key"],
                "DoesNotExist": f"!{rule['key']}",
            }[rule["operator"]]
        )
    return by_labels(",".join(parts))(item)


def _call(hook: Mapping[str, Any], change: Change, new: Object, *, mutates: bool) -> Object:
    identity, name = str(uuid.uuid4()), str(hook["name"])
    if change.dry_run and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
        raise StatusError(400, "BadRequest", f'admission webhook "{name}" does not support dry run')
    try:
        response = _answer(hook, _review(change, new, identity))
        if response.get("uid") != identity:
            raise ValueError(f"expected response.uid={identity!r}, got {response.get('uid')!r}")
    except (URLError, OSError, ValueError, KeyError, TypeError) as error:
        if hook.get("failurePolicy", "Fail") == "Ignore":
            return new
        raise StatusError(
            500, "InternalError", f'failed calling webhook "{name}": {error}'
        ) from None
    if not response.get("allowed"):
        status = response.get("status") or {}
        code, message = (
            int(status.get("code") or 403),
            status.get("message") or "without explanation",
        )
        raise StatusError(
            code,
            status.get("reason") or "Forbidden",
            f'admission webhook "{name}" denied the request: {message}',
        )
    if not mutates or not response.get("patch"):
        return new
    try:
        patched: Object = patching.operated(new, json.loads(base64.b64decode(response["patch"])))
    except ValueError as error:
        raise StatusError(500, "InternalError", f'webhook "{name}": {error}') from None
    return patched


def _answer(hook: Mapping[str, Any], review: Object) -> Mapping[str, Any]:
    config = hook["clientConfig"]
    context = None
    if config["url"].startswith("https:"):
        ca = base64.b64decode(config.get("caBundle") or "").decode()
        context = ssl.create_default_context(cadata=ca or None)
    request = Request(  # noqa: S310 - the test that stored the configuration chose the address
        config["url"],
        json.dumps(review).encode(),
        {"Content-Type": "application/json"},
    )
    limit = float(hook.get("timeoutSeconds") or 10)
    with urlopen(request, timeout=limit, context=context) as reply:  # noqa: S310
        answer: Mapping[str, Any] = json.loads(reply.read())["response"]
    return answer


def _review(change: Change, new: Object, identity: str) -> Object:
    resource, metadata = change.resource, new.get("metadata") or {}
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    named = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": identity,
            "kind": kind,
            "resource": named,
            "requestKind": kind,
            "requestResource": named,
            "name": metadata.get("name", ""),
            "namespace": metadata.get("namespace", ""),
            "operation": change.operation,
            "userInfo": {"username": change.user, "groups": ["system:authenticated"]},
            "object": new,
            "oldObject": change.old,
            "dryRun": change.dry_run,
            "options": None,
        },
    }
