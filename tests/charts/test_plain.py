"""The plain manifests fit together, and fit the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from deviceplugin.cli.certificates import CertificateFlags
from deviceplugin.cli.scheduler import scheduler
from deviceplugin.cli.values import duration
from deviceplugin.scheduler.certificates.issued import SECRET_TYPE
from deviceplugin.scheduler.pods import result_annotations
from deviceplugin.scheduler.role import LEADER, ROLE
from deviceplugin.scheduler.settings import SchedulerSettings

TOP = Path(__file__).parents[2]
PLAIN = TOP / "charts" / "plain"
NAMESPACE = "deviceplugin-system"
HOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def hooks(plain: Any) -> list[dict[str, Any]]:
    return [hook for kind in HOOKS for item in plain.of(kind) for hook in item["webhooks"]]


def condition(hook: dict[str, Any], name: str) -> str:
    (found,) = (c["expression"] for c in hook["matchConditions"] if c["name"] == name)
    return str(found)


# --- they fit together ----------------------------------------------------------------------------


def test_what_is_namespaced_is_in_the_namespace_that_they_make(plain: Any) -> None:
    (namespace,) = plain.of("Namespace")
    assert namespace["metadata"]["name"] == NAMESPACE
    for item in plain.objects:
        found = item["metadata"].get("namespace")
        if item["metadata"]["name"] == "deviceplugin-kube-scheduler" and found == "kube-system":
            assert item["roleRef"]["name"] == "extension-apiserver-authentication-reader"
        else:
            assert found in (None, NAMESPACE)
    subjects = [s for item in plain.objects for s in item.get("subjects", ())]
    (account,) = plain.of("ServiceAccount")
    assert {s["namespace"] for s in subjects} == {NAMESPACE}
    assert {s["name"] for s in subjects} == {account["metadata"]["name"]}
    assert plain.pod["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_roles_that_are_bound_exist_and_all_that_exist_are_bound(plain: Any) -> None:
    bound = {
        (item["roleRef"]["kind"], item["roleRef"]["name"])
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for item in plain.of(kind)
    }
    kubernetes = {
        ("ClusterRole", "system:kube-scheduler"),
        ("ClusterRole", "system:volume-scheduler"),
        ("Role", "extension-apiserver-authentication-reader"),
    }
    made = {
        (i["kind"], i["metadata"]["name"]) for k in ("ClusterRole", "Role") for i in plain.of(k)
    }
    assert bound == made | kubernetes


def test_the_pod_is_selected_mounted_and_reached(plain: Any) -> None:
    labels = plain.pod["metadata"]["labels"]
    (service,), (budget,) = plain.of("Service"), plain.of("PodDisruptionBudget")
    (deployment,) = plain.of("Deployment")
    for selector in (
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        deployment["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    volumes = {volume["name"]: volume for volume in plain.pod["spec"]["volumes"]}
    for container in plain.pod["spec"]["containers"]:
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                assert plain.one("ConfigMap", volume["configMap"]["name"])
                assert "subPath" not in mount
    ports = {p["name"]: p["containerPort"] for p in plain.container("scheduler")["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    assert plain.flag("http_bind") == [f"0.0.0.0:{ports['https']}"]
    assert plain.flag("metrics-bind-address") == [f"0.0.0.0:{ports['metrics']}"]
    assert min(ports.values()) > 1024  # an account that is not root may listen there


def test_the_webhooks_reach_the_service(plain: Any) -> None:
    (service,) = plain.of("Service")
    paths = []
    for hook in hooks(plain):
        config = hook["clientConfig"]["service"]
        assert config["name"] == service["metadata"]["name"]
        assert config["namespace"] == NAMESPACE
        assert config["port"] in {port["port"] for port in service["spec"]["ports"]}
        paths.append(config["path"])
        assert "caBundle" not in hook["clientConfig"]
        assert "v1" in hook["admissionReviewVersions"]
        assert hook["sideEffects"] == "None"
        (selector, *_) = hook["namespaceSelector"]["matchExpressions"]
        assert selector["operator"] == "NotIn"
        assert set(selector["values"]) == {"kube-system", NAMESPACE}
    assert paths == ["/webhook", "/validate"]
    assert plain.flag("tls-host") == [f"{service['metadata']['name']}.{NAMESPACE}.svc"]


def test_only_the_mutating_webhook_can_be_told_to_look_away(plain: Any) -> None:
    """Else everybody could write decisions on a pod with that label."""
    mutating, validating = hooks(plain)
    ignore = {"key": "hami.io/webhook", "operator": "NotIn", "values": ["ignore"]}
    assert ignore in mutating["objectSelector"]["matchExpressions"]
    assert ignore in mutating["namespaceSelector"]["matchExpressions"]
    assert "objectSelector" not in validating
    assert ignore not in validating["namespaceSelector"]["matchExpressions"]
    assert plain.pod["metadata"]["labels"]["hami.io/webhook"] == "ignore"


def test_the_certificates_secret_and_configurations_are_those_of_the_flags(
    plain: Any,
) -> None:
    (secret,) = plain.of("Secret")
    assert secret["type"] == SECRET_TYPE
    assert "data" not in secret
    assert plain.flag("tls-secret") == [secret["metadata"]["name"]]
    for flag, kind in zip(("mutating-webhook", "validating-webhook"), HOOKS, strict=True):
        assert plain.flag(flag) == [item["metadata"]["name"] for item in plain.of(kind)]


def test_both_containers_are_of_one_mind(plain: Any) -> None:
    found = plain.configuration("deviceplugin-kube-scheduler", "config.yaml")
    election = found["leaderElection"]
    assert plain.flag("leader-elect-resource-name") == [election["resourceName"]]
    assert election["resourceNamespace"] == NAMESPACE
    assert [p["schedulerName"] for p in found["profiles"]] == plain.flag("scheduler-name")
    (extender,) = found["extenders"]
    assert extender["urlPrefix"].rpartition(":")[2] == plain.flag("http_bind")[0].rpartition(":")[2]
    assert extender["httpTimeout"] == "30s"
    mounts = plain.container("kube-scheduler")["volumeMounts"]
    assert (
        f"--config={mounts[0]['mountPath']}/config.yaml"
        in (plain.container("kube-scheduler")["command"])
    )


def test_the_pod_may_nothing_that_it_need_not(plain: Any) -> None:
    spec = plain.pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_it_can_be_updated_without_a_gap(plain: Any) -> None:
    (deployment,), (budget,) = plain.of("Deployment"), plain.of("PodDisruptionBudget")
    assert deployment["spec"]["replicas"] > budget["spec"]["maxUnavailable"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    container, spec = plain.container("scheduler"), plain.pod["spec"]
    assert container["readinessProbe"]["httpGet"]["port"] == "https"
    (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    (delay,) = plain.flag("shutdown-delay")
    left = spec["terminationGracePeriodSeconds"] - int(seconds) - duration(delay).total_seconds()
    assert left > SchedulerSettings().bind_patience
    assert (
        "requiredDuringSchedulingIgnoredDuringExecution"
        not in (spec["affinity"]["podAntiAffinity"])
    )


# --- they fit the code ----------------------------------------------------------------------------


def test_the_command_takes_its_flags(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", NAMESPACE)
    with scheduler.make_context("scheduler", list(plain.flags)) as context:
        found = dict(context.params)
    certificate = CertificateFlags.taken_from(found)
    assert certificate.tls_secret_namespace == NAMESPACE
    assert found["lease_namespace"] == NAMESPACE
    assert found["leader_elect"] is True
    names = {env["name"] for env in plain.container("scheduler")["env"]}
    assert "POD_NAMESPACE" in names


def test_a_flag_that_the_command_does_not_know_would_be_found(plain: Any) -> None:
    with pytest.raises(click.UsageError):
        scheduler.make_context("scheduler", [*plain.flags, "--no-such-flag"])


def test_every_resource_of_every_vendor_is_left_to_the_extender(
    plain: Any, backends: tuple[Any, ...]
) -> None:
    wanted = {name for backend in backends for name in backend.resources.names()}
    (extender,) = plain.configuration("deviceplugin-kube-scheduler", "config.yaml")["extenders"]
    names = [entry["name"] for entry in extender["managedResources"]]
    assert sorted(names) == sorted(wanted)
    assert all(entry["ignoredByScheduler"] is True for entry in extender["managedResources"])
    asked = plain.listed(condition(hooks(plain)[0], "asks-for-a-device"))
    assert sorted(asked) == sorted(wanted)


def test_every_decision_is_protected(plain: Any, backends: tuple[Any, ...]) -> None:
    wanted = sorted(result_annotations(backends))
    variables = policy(plain)
    assert sorted(plain.listed(variables["decisions"])) == wanted
    assert sorted(plain.listed(condition(hooks(plain)[1], "changes-a-decision"))) == wanted


def policy(plain: Any) -> dict[str, str]:
    found = plain.one("ValidatingAdmissionPolicy", "deviceplugin-decisions")
    (binding,) = plain.of("ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == found["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    return {entry["name"]: entry["expression"] for entry in found["spec"]["variables"]}


def test_the_policy_trusts_whom_the_scheduler_trusts(plain: Any, agent: Any) -> None:
    variables = policy(plain)
    (account,) = plain.of("ServiceAccount")
    name = f"system:serviceaccount:{NAMESPACE}:{account['metadata']['name']}"
    assert plain.listed(variables["schedulers"]) == plain.flag("trusted-account") == [name]
    assert name in condition(hooks(plain)[1], "not-the-scheduler")
    (theirs,) = (item["metadata"] for item in agent.of("ServiceAccount"))
    agents = [f"system:serviceaccount:{theirs['namespace']}:{theirs['name']}"]
    assert plain.listed(variables["agents"]) == plain.flag("agent-account") == agents
    (own,) = agent.of("ValidatingAdmissionPolicy")
    assert agents[0] in own["spec"]["matchConditions"][0]["expression"]


def test_images_are_those_of_the_other_manifests(plain: Any, agent: Any) -> None:
    (daemonset,) = agent.of("DaemonSet")
    (theirs,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert plain.container("scheduler")["image"] == theirs["image"]


def test_the_readme_names_every_file_in_order(plain: Any) -> None:
    text = (PLAIN / "README.md").read_text()
    named = re.findall(r"\d\d-[a-z]+\.yaml", text)
    assert list(dict.fromkeys(named)) == [path.name for path in sorted(PLAIN.glob("*.yaml"))]


def test_what_the_docs_show_of_the_extender_is_what_is_applied(plain: Any) -> None:
    text = (TOP / "docs" / "scheduler.md").read_text()
    (extender,) = plain.configuration("deviceplugin-kube-scheduler", "config.yaml")["extenders"]
    for key in ("urlPrefix", "httpTimeout", "filterVerb", "bindVerb", "preemptVerb"):
        assert f"{key}: {extender[key]}" in text


def blocks(heading: str) -> list[Any]:
    """The YAML that a section of the page shows."""
    text = (PLAIN / "README.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_what_the_page_shows_for_replicas_behind_a_service_fits(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, rules, service, extender = blocks("Behind a Service")
    monkeypatch.setenv("POD_NAMESPACE", NAMESPACE)
    others = [f for f in plain.flags if "leader-elect-resource-name" not in f]
    with scheduler.make_context("scheduler", [*others, *flags]) as context:
        assert context.params["lease_mode"] == "own"
        lease = context.params["lease_name"]
    assert lease != plain.flag("leader-elect-resource-name")[0]
    assert {(verb, *rule.get("resourceNames", ())) for rule in rules for verb in rule["verbs"]} == {
        ("create",),
        ("get", lease),
        ("patch", lease),
    }
    selector = service["spec"]["selector"]
    assert selector.pop(ROLE) == LEADER
    assert selector.items() <= plain.pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == "https"
    assert {"POD_NAME", "POD_NAMESPACE"} <= {e["name"] for e in plain.container("scheduler")["env"]}
    (shown,) = plain.configuration("deviceplugin-kube-scheduler", "config.yaml")["extenders"]
    assert extender.keys() <= shown.keys()
