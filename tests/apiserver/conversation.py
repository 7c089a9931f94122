"""One conversation with an API server, fake or real; ``python tests/apiserver/conversation.py OUT``
records what the server that KUBECONFIG names says.

Names of objects are our own, in a namespace of our own, which a real server must have:
``kubectl create namespace conversation``. Versions and times are left out of the transcript.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from deviceplugin.apiserver.client import JSON_PATCH, MERGE_PATCH, Api, ApiError, Path

NAMESPACE = "conversation"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
A = f"{PODS}/a"


def pod(name: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, **more},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{"name": "main", "image": "localhost/busybox:1"}],
        },
    }


def annotated(**annotations: Any) -> dict[str, Any]:
    return {"metadata": {"annotations": annotations}}


def bound(name: str, node: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}


def op(kind: str, path: str, value: Any = None) -> dict[str, Any]:
    return {"op": kind, "path": path, **({} if value is None else {"value": value})}


X = "/metadata/annotations/x"
TALK: tuple[tuple[str, str, str, Any, dict[str, str]], ...] = (
    ("POST", PODS, JSON, pod("a", annotations={"x": "1", "hami.io/y": "2"}), {}),
    ("POST", PODS, JSON, pod("a"), {}),
    ("POST", PODS, JSON, pod("b"), {}),
    ("POST", PODS, JSON, pod("Upper"), {}),
    ("POST", PODS, JSON, pod("long", annotations={"x": "y" * 270_000}), {}),
    ("POST", PODS, JSON, pod("odd", labels={"a": "b c"}), {}),
    ("GET", A, "", None, {}),
    ("GET", f"{PODS}/none", "", None, {}),
    ("GET", "/api/v1/nothings", "", None, {}),
    ("GET", PODS, "", None, {"labelSelector": "app=a"}),
    ("GET", PODS, "", None, {"labelSelector": "app!=a"}),
    ("GET", PODS, "", None, {"labelSelector": "app in (a,b)"}),
    ("GET", PODS, "", None, {"labelSelector": "app notin (a)"}),
    ("GET", PODS, "", None, {"labelSelector": "app"}),
    ("GET", PODS, "", None, {"labelSelector": "!app"}),
    ("GET", PODS, "", None, {"labelSelector": "app in a"}),
    ("GET", PODS, "", None, {"fieldSelector": "metadata.name=b"}),
    ("GET", PODS, "", None, {"fieldSelector": "spec.nodeName="}),
    ("GET", PODS, "", None, {"fieldSelector": "status.phase=Pending"}),
    ("GET", PODS, "", None, {"fieldSelector": "spec.priority=1"}),
    ("GET", PODS, "", None, {"limit": "1"}),
    ("GET", PODS, "", None, {"watch": "true", "resourceVersion": "x"}),
    ("PATCH", A, MERGE_PATCH, annotated(x="3", z="4"), {}),
    ("PATCH", A, MERGE_PATCH, annotated(z=None), {}),
    ("PATCH", A, MERGE_PATCH, annotated(z=5), {}),
    ("PATCH", A, MERGE_PATCH, annotated(**{"a b": "5"}), {}),
    ("PATCH", A, MERGE_PATCH, {"metadata": {"resourceVersion": "1", "labels": {"v": "1"}}}, {}),
    ("PATCH", A, MERGE_PATCH, {"metadata": {"uid": "other"}}, {}),
    ("PATCH", A, MERGE_PATCH, {"spec": {"nodeName": "elsewhere"}}, {}),
    ("PATCH", A, MERGE_PATCH, {"status": {"phase": "Running"}}, {}),
    ("PATCH", f"{A}/status", MERGE_PATCH, {"status": {"phase": "Running"}}, {}),
    ("PATCH", A, JSON_PATCH, [op("test", X, "3"), op("add", X, "4")], {}),
    ("PATCH", A, JSON_PATCH, [op("test", X, "3"), op("add", X, "5")], {}),
    ("PATCH", A, JSON_PATCH, [op("test", "/metadata/uid", "other"), op("add", X, "5")], {}),
    ("PATCH", A, JSON_PATCH, [op("remove", "/metadata/annotations/hami.io~1y")], {}),
    ("PATCH", A, JSON_PATCH, [op("remove", "/metadata/annotations/hami.io~1y")], {}),
    ("PATCH", A, JSON_PATCH, [op("replace", "/metadata/annotations/none", "1")], {}),
    ("PATCH", A, STRATEGIC, annotated(s="1"), {}),
    ("PATCH", A, "text/plain", "x", {}),
    ("PATCH", f"{PODS}/none", MERGE_PATCH, annotated(x="1"), {}),
    ("POST", f"{A}/binding", JSON, {"target": {"kind": "Node", "name": "node-x"}}, {}),
    ("POST", f"{A}/binding", JSON, bound("a", ""), {}),
    ("POST", f"{A}/binding", JSON, bound("a", "node-x"), {}),
    ("POST", f"{A}/binding", JSON, bound("a", "node-y"), {}),
    ("POST", f"{PODS}/none/binding", JSON, bound("none", "node-x"), {}),
    ("GET", PODS, "", None, {"fieldSelector": "spec.nodeName=node-x"}),
    ("DELETE", f"{PODS}/b", JSON, {"preconditions": {"uid": "other"}}, {}),
    ("DELETE", f"{PODS}/b", "", None, {"gracePeriodSeconds": "0"}),
    ("DELETE", f"{PODS}/b", "", None, {}),
    ("DELETE", A, "", None, {"gracePeriodSeconds": "0"}),
    ("POST", LEASES, JSON, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}, {}),
    ("PATCH", f"{LEASES}/l", MERGE_PATCH, {"spec": {"holderIdentity": "you"}}, {}),
    ("DELETE", f"{LEASES}/l", "", None, {}),
)


def transcript(api: Api) -> Iterator[str]:
    """A line for each request: what was asked, how it was answered."""
    for number, (method, path, kind, body, query) in enumerate(TALK):
        asked = f"{number:02} {method} {path.removeprefix('/api/v1')} {json.dumps(query)}"
        try:
            answer = api.call(method, Path(path, {}), body, kind, query)
        except ApiError as error:
            yield f"{asked} -> {error.status} {error.reason}"
        else:
            yield f"{asked} -> {shown(answer)}"


def shown(answer: dict[str, Any]) -> str:
    """What of an answer does not differ from run to run."""
    if "items" in answer:
        names = [item["metadata"]["name"] for item in answer["items"]]
        more = " and more" if answer["metadata"].get("continue") else ""
        return f"{answer['kind']} {names}{more}"
    metadata = answer.get("metadata") or {}
    parts = [answer.get("kind", ""), answer.get("status") if answer["kind"] == "Status" else ""]
    if annotations := metadata.get("annotations"):
        parts.append(json.dumps(annotations, sort_keys=True))
    spec = answer.get("spec") or {}
    parts += [str(spec.get(key)) for key in ("nodeName", "holderIdentity") if spec.get(key)]
    if isinstance(answer.get("status"), dict):
        parts.append(answer["status"].get("phase", ""))
    return " ".join(part for part in parts if part)


if __name__ == "__main__":
    api = Api()
    version = api.call("GET", Path("/version", {}))["gitVersion"]
    lines = "\n".join(transcript(api))
    FilePath(sys.argv[1]).write_text(f"# {version}\n{lines}\n")
