"""The doctor of a cluster: each finding where it belongs, and none where all is well."""

from __future__ import annotations

import base64
import copy
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path as FilePath
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deviceplugin import registry
from deviceplugin.api.hami import poddevices, register
from deviceplugin.api.hami.keys import BIND_PHASE, BIND_TIME, MUTEX_LOCK, VENDORS, VGPU_NODE
from deviceplugin.api.hami.poddevices import ContainerDevice
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.apiserver.client import ApiError, Path
from deviceplugin.cli.main import cli
from deviceplugin.doctor.examine import examine
from deviceplugin.doctor.fleet.examine import GROUPS
from deviceplugin.doctor.fleet.scene import ApiAsking, FleetScene
from deviceplugin.doctor.model import NotCheckedError, Report
from deviceplugin.explain.snapshot import Shapes, Snapshot, write
from deviceplugin.explain.world import rebuilt
from deviceplugin.scheduler.settings import SchedulerSettings
from deviceplugin.testing.apiserver import ApiServer

NOW = datetime(2026, 1, 20, 8, 10, tzinfo=UTC)
GPU, MEMORY = "nvidia.com/gpu", "nvidia.com/gpumem"
KEYS = VENDORS["NVIDIA"]
CHARTS = FilePath(__file__).parents[2] / "charts" / "plain"
SYSTEM, NAME = "deviceplugin-system", "deviceplugin-scheduler"
LABELS = {"app.kubernetes.io/name": NAME}
Json = dict[str, Any]

ASKS = {GPU: "1", MEMORY: "1000", "nvidia.com/gpucores": "10"}

BACKENDS = {
    backend.keys.common_word: backend
    for backend in registry.load_scheduling(registry.load().vendors["nvidia"], {})
}


def authority(until: datetime) -> str:
    """A caBundle that lasts until then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(until - timedelta(days=400))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


GOOD = authority(NOW + timedelta(days=300))


def charts() -> Iterator[Json]:
    for file in sorted(CHARTS.glob("*.yaml")):
        yield from filter(None, yaml.safe_load_all(file.read_text()))


def shipped() -> dict[str, list[Json]]:
    """What charts/plain puts into a cluster, and what comes of it, by collection."""
    found: dict[str, list[Json]] = {}
    for item in charts():
        kind = item["kind"].lower()
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        found.setdefault(plural, []).append(copy.deepcopy(item))
    for item in found["mutatingwebhookconfigurations"]:
        item["webhooks"][0]["clientConfig"]["caBundle"] = GOOD
    (deployment,) = found["deployments"]
    found["pods"] = [
        {
            "metadata": {"name": f"{NAME}-{n}", "namespace": SYSTEM, "labels": LABELS},
            "spec": copy.deepcopy(deployment["spec"]["template"]["spec"]),
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        for n in "ab"
    ]
    found["leases"] = [
        {
            "metadata": {"name": "hami-scheduler", "namespace": SYSTEM},
            "spec": {
                "holderIdentity": f"{NAME}-a_1-2-3",
                "renewTime": "2026-01-20T08:09:58.000000Z",
                "leaseDurationSeconds": 15,
            },
        }
    ]
    found["endpointslices"] = [
        {
            "metadata": {
                "name": f"{NAME}-x",
                "namespace": SYSTEM,
                "labels": {"kubernetes.io/service-name": NAME},
            },
            "endpoints": [{"conditions": {"ready": True}}],
        }
    ]
    return found


class Told:
    """An API server that has these objects. `answer` is what becomes of a pod for trial."""

    def __init__(self, objects: Mapping[str, list[Json]]) -> None:
        self.objects = objects
        self.answer: Json | ApiError = {"spec": {"schedulerName": "hami-scheduler"}}
        self.proxied = ""
        self.refuses: set[str] = set()

    def some(self, path: Path, **query: str) -> tuple[Json, ...]:
        plural = path.template.rpartition("/")[2]
        if plural in self.refuses:
            raise NotCheckedError(f"GET {path}: 403")
        wanted = dict(p.split("=") for p in query.get("labelSelector", "").split(",") if p)
        return tuple(
            item
            for item in self.objects.get(plural, [])
            if wanted.items() <= (item["metadata"].get("labels") or {}).items()
        )

    def one(self, path: Path) -> Json | None:
        plural = path.template.split("/")[-2]
        if plural in self.refuses:
            raise NotCheckedError(f"GET {path}: 403")
        return next(
            (
                i
                for i in self.objects.get(plural, [])
                if i["metadata"]["name"] == path.names["name"]
            ),
            None,
        )

    def tried(self, path: Path, body: Json) -> Json:
        assert body["spec"]["containers"][0]["resources"]["limits"] == {GPU: "1"}
        if isinstance(self.answer, ApiError):
            raise self.answer
        return self.answer

    def text(self, path: Path) -> str:
        assert str(path).endswith(f"/services/https:{NAME}:443/proxy/readyz")
        return self.proxied


def node(name: str = "a", cards: int = 1, **more: Any) -> Json:
    devices = [
        NodeDevice(
            uuid=f"{name}-{i}", index=i, count=10, memory=16000, cores=100,
            type="NVIDIA-T4", mode="hami-core", healthy=True,
        )
        for i in range(cards)
    ]  # fmt: skip
    amounts = {GPU: str(cards * 10)} if cards else {}
    found: Json = {
        "metadata": {
            "name": name,
            "annotations": {KEYS.register: register.encode(devices)} if cards else {},
            "labels": {},
        },
        "status": {"allocatable": amounts, "capacity": amounts},
    }
    for key, value in more.items():
        found["metadata"][key].update(value)
    return found


def pod(name: str, limits: Json | None = None, on: str = "", phase: str = "", **spec: Any) -> Json:
    annotations: dict[str, str] = {}
    if on:
        text = poddevices.encode([[ContainerDevice(f"{on}-0", "NVIDIA", 1000, 10)]], KEYS.allocated)
        annotations = {VGPU_NODE: on, KEYS.allocated: text, BIND_TIME: "1768896000"}
        annotations |= {BIND_PHASE: phase} if phase else {}
        spec["nodeName"] = on
    return {
        "metadata": {
            "namespace": "team", "name": name, "uid": f"u-{name}", "annotations": annotations,
            "creationTimestamp": "2026-01-20T08:00:00Z",
        },
        "spec": {
            "schedulerName": "hami-scheduler",
            "containers": [{"name": "main", "resources": {"limits": limits or ASKS}}],
            **spec,
        },
        "status": {"phase": "Pending"},
    }  # fmt: skip


def quota(name: str, **hard: str) -> Json:
    keys = {f"limits.nvidia.com/{key}": text for key, text in hard.items()}
    return {"metadata": {"name": name, "namespace": "team"}, "spec": {"hard": keys}}


def report(
    asking: Any = None,
    nodes: Any = (),
    pods: Any = (),
    quotas: Any = (),
    only: Any = (),
    kubernetes: str = "v1.36.1",
    settings: SchedulerSettings | None = None,
) -> Report:
    shapes = Shapes(BACKENDS)
    reduced = Snapshot(
        tuple(map(shapes.node, nodes or [node()])),
        tuple(map(shapes.pod, pods)),
        tuple(found for item in quotas if (found := shapes.quota(item)) is not None),
        kubernetes=kubernetes,
    )
    world = rebuilt(reduced, BACKENDS, settings or SchedulerSettings())
    return examine(FleetScene(world, NOW, asking), only, GROUPS)


def ids(found: Report) -> list[str]:
    return [finding.id for finding in found.findings]


# --- all is well ----------------------------------------------------------------------------------


def test_what_charts_plain_makes_of_a_cluster_is_well() -> None:
    found = report(
        Told(shipped()),
        pods=[pod("x", on="a", phase="success")],
        quotas=[quota("q", gpumem="9000")],
    )
    assert (found.findings, found.skipped) == ((), ())
    assert found.topics == sum(len(group.topics) for group in GROUPS)


def test_a_captured_cluster_is_checked_as_far_as_it_tells() -> None:
    found = report(None)
    assert found.findings == ()
    assert [skipped.group for skipped in found.skipped] == ["webhook", "scheduler"]


def test_what_may_not_be_asked_stops_only_its_group() -> None:
    told = Told(shipped())
    told.refuses = {"mutatingwebhookconfigurations", "daemonsets"}
    found = report(told)
    assert found.findings == ()
    assert [skipped.group for skipped in found.skipped] == ["webhook", "scheduler"]
    told.refuses = {"validatingadmissionpolicies", "leases", "configmaps"}
    assert report(told).findings == ()


# --- webhook --------------------------------------------------------------------------------------


def hook(objects: dict[str, list[Json]]) -> Json:
    found: Json = objects["mutatingwebhookconfigurations"][0]["webhooks"][0]
    return found


Breaks = Callable[[dict[str, list[Json]]], object]


@pytest.mark.parametrize(
    ("breaks", "finding", "says"),
    [
        (lambda o: o.pop("mutatingwebhookconfigurations"), "webhook-missing", "no MutatingWebhook"),
        (lambda o: hook(o).update(objectSelector={}, namespaceSelector={}), "webhook-missing", "hami.io/webhook"),
        (lambda o: hook(o)["rules"][0].update(operations=["UPDATE"]), "webhook-missing", "new pods"),
        (lambda o: hook(o)["clientConfig"].pop("caBundle"), "webhook-authority-missing", "no caBundle"),
        (lambda o: hook(o)["clientConfig"].update(caBundle="!"), "webhook-authority-missing", ""),
        (lambda o: hook(o)["clientConfig"].update(caBundle=authority(NOW - timedelta(days=1))), "webhook-authority-expired", "2026-01-19"),
        (lambda o: hook(o)["clientConfig"].update(caBundle=authority(NOW + timedelta(days=3))), "webhook-authority-expires", "2026-01-23"),
        (lambda o: o.pop("endpointslices"), "webhook-unserved", f"{SYSTEM}/{NAME}:443"),
        (lambda o: o["endpointslices"][0]["endpoints"][0]["conditions"].update(ready=False), "webhook-unserved", ""),
        (lambda o: hook(o).update(failurePolicy="Ignore"), "webhook-fails-open", "Ignore"),
        (lambda o: (o.pop("validatingadmissionpolicies"), o.pop("validatingwebhookconfigurations")), "decisions-unprotected", "vgpu-node"),
    ],
)  # fmt: skip
def test_each_trouble_of_the_webhook(breaks: Breaks, finding: str, says: str) -> None:
    objects = shipped()
    breaks(objects)
    found = report(Told(objects), only=["webhook"])
    assert ids(found) == [finding]
    assert says in found.findings[0].what + " ".join(found.findings[0].evidence)


def test_one_guard_of_decisions_is_enough() -> None:
    objects = shipped()
    objects.pop("validatingadmissionpolicies")
    assert report(Told(objects), only=["webhook"]).findings == ()


def test_an_old_authority_beside_a_new_one_is_no_trouble() -> None:
    objects = shipped()
    both = b"".join(base64.b64decode(t) for t in (authority(NOW - timedelta(days=1)), GOOD))
    hook(objects)["clientConfig"]["caBundle"] = base64.b64encode(both).decode()
    assert report(Told(objects), only=["webhook"]).findings == ()


def test_a_pod_for_trial_that_is_not_changed_or_cannot_be_made() -> None:
    told = Told(shipped())
    told.answer = {"spec": {"schedulerName": "default-scheduler"}}
    found = report(told, only=["webhook"])
    assert ids(found) == ["webhook-silent"]
    assert "keeps scheduler default-scheduler" in found.findings[0].what
    told.answer = ApiError('500 failed calling webhook "x": x509: unknown authority', 500)
    found = report(told, only=["webhook"])
    assert ids(found) == ["webhook-down"]
    assert "unknown authority" in found.findings[0].evidence[0]
    told.answer = ApiError("403 pods is forbidden", 403)
    assert report(told, only=["webhook"]).findings == ()


def test_a_certificate_of_another_authority(tmp_path: FilePath) -> None:
    """Served on a socket, because it is looked at where the API server would."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    served = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "pair.pem"
    file.write_bytes(
        served.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        objects = shipped()
        url = f"https://127.0.0.1:{server.server_port}/webhook"
        hook(objects)["clientConfig"] = {
            "url": url,
            "caBundle": authority(datetime.now(UTC) + timedelta(days=90)),
        }
        found = report(Told(objects), only=["webhook"])
        assert ids(found) == ["webhook-authority-wrong"]
        assert "self-signed" in found.findings[0].evidence[0]
    finally:
        server.shutdown()
        server.server_close()


# --- scheduler ------------------------------------------------------------------------------------


def kube(objects: dict[str, list[Json]], change: Callable[[Json], object]) -> None:
    """Change kube-scheduler's configuration."""
    for item in objects["configmaps"]:
        for key, text in (item.get("data") or {}).items():
            document = yaml.safe_load(text)
            if document.get("kind") == "KubeSchedulerConfiguration":
                change(document)
                item["data"][key] = yaml.safe_dump(document)


def ready(value: str) -> Breaks:
    def change(objects: dict[str, list[Json]]) -> None:
        for item in objects["pods"][: 2 if value == "none" else 1]:
            item["status"] = {}

    return change


@pytest.mark.parametrize(
    ("breaks", "finding", "says"),
    [
        (ready("none"), "scheduler-not-ready", f"{NAME}-a, {NAME}-b"),
        (lambda o: o.update(pods=[]), "scheduler-not-ready", "there is no pod at all"),
        (ready("one"), "scheduler-replica-not-ready", f"{NAME}-a"),
        (lambda o: o["leases"][0]["spec"].update(holderIdentity=""), "scheduler-without-leader", "nobody"),
        (lambda o: o["leases"][0]["spec"].update(renewTime="2026-01-20T08:00:00Z"), "scheduler-without-leader", "08:00:00"),
        (lambda o: o["leases"][0]["spec"].update(holderIdentity="other_1"), "scheduler-leader-unknown", "other_1"),
        (lambda o: o["pods"][0]["spec"]["containers"][1].update(image="k/kube-scheduler:v1.30.2"), "kube-scheduler-version", "v1.30.2"),
        (lambda o: kube(o, lambda d: d.update(extenders=[])), "extender-missing", "no extender"),
        (lambda o: kube(o, lambda d: d.update(profiles=[{"schedulerName": "x"}])), "extender-profile-missing", "profiles: x"),
        (lambda o: kube(o, lambda d: d["extenders"][0].update(managedResources=[{"name": GPU, "ignoredByScheduler": True}, {"name": MEMORY}])), "resource-unmanaged", "nvidia.com/gpucores, nvidia.com/gpumem"),
        (lambda o: kube(o, lambda d: d["extenders"][0].pop("nodeCacheCapable")), "extender-not-caching", "nodeCacheCapable"),
        (lambda o: kube(o, lambda d: d["extenders"][0].update(httpTimeout="5s")), "extender-impatient", "5s"),
        (lambda o: kube(o, lambda d: d["extenders"][0].pop("httpTimeout")), "extender-impatient", "None"),
    ],
)  # fmt: skip
def test_each_trouble_of_the_scheduler(breaks: Breaks, finding: str, says: str) -> None:
    objects = shipped()
    breaks(objects)
    found = report(Told(objects), only=["scheduler"])
    assert ids(found) == [finding]
    assert says in found.findings[0].what + " ".join(found.findings[0].evidence)


def test_an_extender_that_is_asked_about_every_pod_needs_no_list() -> None:
    objects = shipped()
    kube(objects, lambda d: d["extenders"][0].pop("managedResources"))
    assert report(Told(objects), only=["scheduler"]).findings == ()


def test_a_service_that_does_not_answer() -> None:
    told = Told(shipped())
    told.proxied = "503 cluster: not seen whole yet"
    found = report(told, only=["scheduler"])
    assert ids(found) == ["scheduler-unreachable"]


def test_versions_that_nobody_has_tried_and_preemption() -> None:
    objects = shipped()
    kube(objects, lambda d: d["extenders"][0].pop("preemptVerb"))
    assert report(Told(objects), only=["scheduler"]).findings == ()
    for item in objects["pods"]:
        item["spec"]["containers"][1]["image"] = "k/kube-scheduler:v1.38.0"
    found = report(Told(objects), only=["scheduler"], kubernetes="v1.38.0")
    assert sorted(ids(found)) == ["extender-without-preemption", "kubernetes-version"]


# --- nodes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "finding", "says"),
    [
        ([node("a", 0)], "cluster-without-devices", "the only node tells of no device"),
        ([node("a", 0), node("b", 0)], "cluster-without-devices", "none of 2 nodes"),
        ([node(), node("b", 0, labels={"gpu": "on"})], "node-labelled-silent", "node b"),
        ([node(annotations={MUTEX_LOCK: "2026-01-20T08:00:00Z,team,gone"})], "node-lock-left", "node a: "),
        ([node(annotations={MUTEX_LOCK: "soon"})], "node-lock-unreadable", "node a: "),
        ([node(annotations={KEYS.register: "?"}), node("b")], "registration-unreadable", "node a: "),
    ],
)  # fmt: skip
def test_each_trouble_of_nodes(nodes: list[Json], finding: str, says: str) -> None:
    found = report(None, nodes, only=["nodes"])
    assert ids(found) == [finding]
    assert says in found.findings[0].what
    assert found.findings[0].group == "nodes"


def test_a_node_that_offers_what_it_does_not_register_and_the_other_way() -> None:
    silent = node("b")
    del silent["metadata"]["annotations"][KEYS.register]
    fewer = node("c")
    fewer["status"]["allocatable"][GPU] = "7"
    found = report(None, [node(), silent, fewer], only=["nodes"])
    assert ids(found) == ["registration-missing", "registration-disagrees"]


def test_two_plugins_of_one_vendor() -> None:
    def plugin(name: str, image: str, running: int = 3) -> Json:
        return {
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {
                "template": {
                    "spec": {
                        "volumes": [{"hostPath": {"path": "/var/lib/kubelet/device-plugins"}}],
                        "containers": [{"name": "c", "image": image}],
                    }
                }
            },
            "status": {"desiredNumberScheduled": running},
        }

    theirs = plugin("nvidia-device-plugin", "nvcr.io/nvidia/k8s-device-plugin:v0.18.0")
    ours = plugin("hami-device-plugin", "registry.example/projecthami/hami:v2.8.0")
    rdma = plugin("rdma", "k8s-rdma-shared-dev-plugin")
    idle = plugin("nvidia-old", "nvidia/k8s-device-plugin:v0.14", 0)
    found = report(Told({"daemonsets": [theirs, ours, rdma, idle]}), only=["nodes"])
    assert ids(found) == ["plugins-compete"]
    assert (
        "kube-system/nvidia-device-plugin is a device plugin beside kube-system/hami"
        in found.findings[0].what
    )
    assert report(Told({"daemonsets": [theirs, rdma]}), only=["nodes"]).findings == ()


# --- pods and quotas ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "finding", "says"),
    [
        ([pod("x", {GPU: "1", MEMORY: "99999"})], "pod-unplaced", "too little memory is left"),
        ([pod("x")], "pod-unasked", "waits for 10 minutes"),
        ([pod("x", schedulerName="default-scheduler")], "pod-past-webhook", "names scheduler"),
        ([pod("x", {GPU: "many"})], "pod-past-webhook", "whole number"),
        ([pod("x", on="a", phase="allocating")], "pod-unserved", "has waited 10 minutes"),
        ([pod("x", on="a", phase="failed")], "pod-not-given", "was not given"),
        ([pod("x", schedulingGates=[{"name": "g"}])], None, ""),
        ([pod("x", {"cpu": "1"})], None, ""),
        ([pod("x", on="a", phase="success")], None, ""),
    ],
)
def test_each_trouble_of_pods(pods: list[Json], finding: str | None, says: str) -> None:
    found = report(None, pods=pods, only=["waiting"])
    assert ids(found) == ([finding] if finding else [])
    for one in found.findings:
        assert says in one.what + " ".join(one.evidence)


def test_a_decision_that_cannot_be_read() -> None:
    broken = pod("x", on="a")
    broken["metadata"]["annotations"][KEYS.allocated] = "GPU,NVIDIA,x,y:;"
    assert "pod-decision-unreadable" in ids(report(None, pods=[broken], only=["waiting"]))


def test_a_thousand_pods_that_are_alike_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from deviceplugin.doctor.fleet import waiting

    looked: list[int] = []
    judge = waiting.judge
    monkeypatch.setattr(waiting, "judge", lambda *a: looked.append(1) or judge(*a))
    found = report(
        None, pods=[pod(f"x{i}", {GPU: "1", MEMORY: "99999"}) for i in range(50)], only=["waiting"]
    )
    assert len(found.findings) == 50
    assert len(looked) == 1


@pytest.mark.parametrize(
    ("hard", "finding"),
    [
        ({"gpumem": "20Gi"}, "quota-not-held"),
        ({"gpumem": "much"}, "quota-not-held"),
        ({"gpu": "4"}, "quota-unread"),
        ({"gpumem": "500"}, "quota-exceeded"),
    ],
)
def test_each_trouble_of_quotas(hard: dict[str, str], finding: str) -> None:
    found = report(
        None, pods=[pod("x", on="a", phase="success")], quotas=[quota("q", **hard)], only=["quotas"]
    )
    assert ids(found) == [finding]
    assert "team" in found.findings[0].what


def test_every_finding_is_seen_in_a_test() -> None:
    text = FilePath(__file__).read_text()
    for group in GROUPS:
        for topic in group.topics:
            assert f'"{topic.id}"' in text, topic.id


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ApiServer, Any]]:
    """charts/plain on an API server whose webhook does its work."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            patch = [{"op": "add", "path": "/spec/schedulerName", "value": "hami-scheduler"}]
            reply = {
                "uid": request["uid"],
                "allowed": True,
                "patchType": "JSONPatch",
                "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"response": reply}).encode())

        def log_message(self, *args: object) -> None:
            """Quiet."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    with ApiServer() as server:
        objects = shipped()
        for kind in ("mutating", "validating"):
            for item in objects[f"{kind}webhookconfigurations"]:
                item["webhooks"][0]["clientConfig"]["caBundle"] = authority(
                    datetime.now(UTC) + timedelta(days=90)
                )
        objects["leases"][0]["spec"]["renewTime"] = datetime.now(UTC).isoformat()
        server.create("nodes", node())
        for plural in (
            "services", "endpointslices", "configmaps", "leases", "validatingadmissionpolicies",
            "pods", "mutatingwebhookconfigurations",
        ):  # fmt: skip
            for item in objects[plural]:
                if plural == "mutatingwebhookconfigurations":
                    item["webhooks"][0]["clientConfig"]["url"] = (
                        f"http://127.0.0.1:{http.server_port}/"
                    )
                server.create(plural, item)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server, http
    http.shutdown()
    http.server_close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--cluster", *arguments], catch_exceptions=False)


def test_the_command_on_a_cluster_that_is_well_and_leaves_nothing(cluster: Any) -> None:
    server, _ = cluster
    before = len(server.objects("pods"))
    found = run()
    assert found.exit_code == 0, found.output
    assert found.output.startswith("0 errors, 0 warnings, ")
    assert len(server.objects("pods")) == before


def test_the_command_on_one_that_is_not(cluster: Any) -> None:
    server, _ = cluster
    server.delete("mutatingwebhookconfigurations", NAME)
    server.create("pods", pod("x", {GPU: "1", MEMORY: "99999"}))
    found = run("-o", "json")
    assert found.exit_code == 1
    document = json.loads(found.output)
    assert [finding["id"] for finding in document["findings"]] == [
        "webhook-missing",
        "pod-unplaced",
    ]
    assert [skipped["group"] for skipped in document["skipped"]] == ["scheduler"]
    assert run("--only", "waiting").exit_code == 0
    assert run("--only", "waiting", "--strict").exit_code == 1
    assert run("--only", "kubelet").exit_code == 2


def test_the_command_on_a_captured_cluster(tmp_path: FilePath) -> None:
    shapes = Shapes(BACKENDS)
    snapshot = Snapshot((shapes.node(node()),), taken_at="2026-01-20T08:10:00Z")
    write(snapshot, tmp_path / "s.json")
    found = run("--snapshot", str(tmp_path / "s.json"))
    assert found.exit_code == 0
    assert "Not checked: webhook, scheduler: a captured cluster does not tell" in found.output


def test_a_finding_of_a_cluster_is_explained() -> None:
    found = run("--explain", "extender-not-caching")
    assert found.exit_code == 0
    assert "nodeCacheCapable: true" in found.output


def test_the_proxy_answers_are_told_apart(cluster: Any) -> None:
    from deviceplugin.apiserver.client import Api

    asking = ApiAsking(Api())
    with pytest.raises(NotCheckedError):
        asking.text(Path("/api/v1/namespaces/x/services/https:y:443/proxy/readyz", {}))
    assert asking.some(Path("/apis/nothing.example/v1/things", {})) == ()
    assert asking.one(Path("/api/v1/namespaces/x/pods/y", {})) is None
