"""``deviceplugin scheduler`` as a process, started as HAMi's chart starts its own."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from deviceplugin.api.hami.keys import VGPU_NODE
from deviceplugin.apiserver.client import Path as ApiPath
from deviceplugin.cli.main import cli
from deviceplugin.scheduler.role import LEADER, ROLE

CHART = (
    "--scheduler-name=hami-scheduler",
    "--metrics-bind-address=127.0.0.1:0",
    "--node-scheduler-policy=binpack",
    "--gpu-scheduler-policy=spread",
    "--force-overwrite-default-scheduler=true",
    "--enable-ascend=true",
    "--enable-iluvatar=false",
    "--debug",
    "--leader-elect=true",
    "--leader-elect-resource-name=hami-scheduler",
    "--leader-elect-resource-namespace=kube-system",
    "-v=4",
)
SECONDS = 60.0


def lease(holder: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "hami-scheduler", "namespace": "kube-system"},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": 600,
            "leaseTransitions": 1,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    }


async def answered(bench: Any, process: Any, wanted: str) -> dict[str, Any]:
    """The answer to a filter, once it has this in it."""
    async with asyncio.timeout(SECONDS):
        while wanted not in str(answer := await bench.filter(process.address, "p", ["a"])):
            await asyncio.sleep(0.05)
    return dict(answer)


async def test_it_follows_the_kube_scheduler_beside_it_under_the_flags_of_hamis_chart(
    started: Any, bench: Any, make: Any, tmp_path: Path
) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    bench.server.create("leases", lease("elsewhere_1"))
    async with started(bench.server.kubeconfig(tmp_path / "config"), *CHART) as process:
        told = {line for line in process.lines if "has no meaning here" in line}
        for flag in ("enable-ascend", "enable-iluvatar", "debug", '"v"'):
            assert any(flag in line for line in told), flag
        answer = await answered(bench, process, "elsewhere_1")
        assert answer["NodeNames"] is None
        mine = {"spec": {"holderIdentity": f"{socket.gethostname()}_2", "leaseTransitions": 2}}
        bench.server.patch("leases", "hami-scheduler", mine, "kube-system")
        answer = await answered(bench, process, "'a'")
        assert answer["NodeNames"] == ["a"]
        assert await bench.bind(process.address, "p", "a") == ""
        assert await process.stop() == 0


async def test_of_replicas_with_a_lease_of_their_own_one_places_and_the_next_goes_on(
    started: Any, bench: Any, make: Any, tmp_path: Path
) -> None:
    bench.server.create("nodes", make.node("a"))
    bench.server.create("pods", make.pod("p"))
    kubeconfig = bench.server.kubeconfig(tmp_path / "config")
    flags = (
        *("--metrics-bind-address=", "--leader-elect", "--leader-elect-mode=own"),
        *("--leader-elect-resource-name=ours", "--leader-elect-resource-namespace=default"),
    )
    for name in ("first", "second"):
        item = {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
        bench.server.create("pods", item)
    here = {"POD_NAMESPACE": "default"}

    def leader() -> list[str]:
        """Whom a Service reaches."""
        return [
            item["metadata"]["name"]
            for item in bench.server.objects("pods", "default")
            if (item["metadata"].get("labels") or {}).get(ROLE) == LEADER
        ]

    async with started(kubeconfig, *flags, POD_NAME="first", **here) as first:
        await answered(bench, first, "'a'")
        await bench.until(lambda: leader() == ["first"], SECONDS)
        async with started(kubeconfig, *flags, POD_NAME="second", **here) as second:
            await answered(bench, second, "does not lead")
            assert await first.stop() == 0
            assert (await answered(bench, second, "'a'"))["NodeNames"] == ["a"]
            await bench.until(lambda: leader() == ["second"], SECONDS)
            assert await bench.bind(second.address, "p", "a") == ""
            assert await second.stop() == 0


async def test_it_goes_on_answering_for_a_while_and_hangs_up_after_each_answer(
    started: Any, bench: Any, tmp_path: Path
) -> None:
    flags = ("--metrics-bind-address=", "--shutdown-delay=1h")
    async with started(bench.server.kubeconfig(tmp_path / "config"), *flags) as process:
        async with aiohttp.ClientSession() as session:

            async def asked(path: str) -> tuple[int, str | None]:
                async with session.get(process.address + path) as response:
                    return response.status, response.headers.get("Connection")

            async with asyncio.timeout(SECONDS):
                while await asked("/readyz") != (200, None):
                    await asyncio.sleep(0.05)
            process.process.send_signal(signal.SIGTERM)
            await process.until("stopping")
            assert await asked("/healthz") == (200, "close")
            assert await asked("/readyz") == (503, "close")
        assert await process.stop() == 0  # another signal: at once


def webhook(process: Any) -> dict[str, Any]:
    """As it is applied: whom to trust is left open."""
    return {
        "metadata": {"name": "ours"},
        "webhooks": [
            {
                "name": "pods.ours.dev",
                "clientConfig": {"url": f"{process.address.replace('http:', 'https:')}/webhook"},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "resources": ["pods"]}],
                "sideEffects": "None",
            }
        ],
    }


async def test_it_issues_its_certificate_and_the_api_server_calls_it_over_tls(
    started: Any, bench: Any, make: Any, tmp_path: Path
) -> None:
    flags = (
        *("--metrics-bind-address=", "--tls-secret=ours-tls", "--tls-secret-namespace=sched"),
        *("--tls-host=ours.sched.svc", "--mutating-webhook=ours"),
    )
    async with started(bench.server.kubeconfig(tmp_path / "config"), *flags) as process:
        bench.server.create("mutatingwebhookconfigurations", webhook(process))

        def trusts() -> object:
            found = bench.server.get("mutatingwebhookconfigurations", "ours")
            return found["webhooks"][0]["clientConfig"].get("caBundle")

        await bench.until(trusts, SECONDS)
        assert bench.server.get("secrets", "ours-tls", "sched")["data"].keys() == {
            *("ca.crt", "ca.key", "tls.crt", "tls.key")
        }
        pod = make.pod("p")
        pod["spec"]["schedulerName"] = "default-scheduler"
        path = ApiPath("/api/v1/namespaces/default/pods", {})
        stored = await bench.api().create(path, pod)
        assert stored["spec"]["schedulerName"] == "hami-scheduler"
        assert await process.stop() == 0


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (["--cert_file=a"], "given together"),
        (["--cert_file=a", "--key_file=b", "--tls-secret=c"], "give one of them"),
        (["--tls-secret=c"], "--tls-secret-namespace, or POD_NAMESPACE"),
        (["--mutating-webhook=c"], "give --tls-secret, or see to the caBundle yourself"),
        (["--tls-host=A_b"], "no host name in lower case"),
        (["--leader-elect"], "--leader-elect-resource-namespace"),
        (["--leader-elect=perhaps"], "not a valid boolean"),
        (["--node-lock-timeout=soon"], "write 5m"),
        (["--node-label-selector=gpu"], "not key=value"),
        (["--node-label-selector=gpu=a b"], "can be on no node"),
        (["--node-label-selector=,"], "names no label"),
        (["--scheduler-name="], "write one without blanks"),
        (["--scheduler-name=a b"], "write one without blanks"),
        (
            ["--leader-elect", "--leader-elect-resource-namespace=a", "--scheduler-name=A"],
            "with --leader-elect-resource-name",
        ),
        (["--decision-lifetime=99999999999h"], "more than a year"),
        (["--trusted-account= foo"], "write system:serviceaccount:NAMESPACE:NAME"),
        (["--trusted-account="], "or the name of a user"),
        (["--agent-account=foo"], "write system:serviceaccount:NAMESPACE:NAME"),
        (["--trusted-account=system:serviceaccount:foo"], "'system:serviceaccount:foo' is no acc"),
        (["--agent-account=system:node:a"], "write system:serviceaccount:NAMESPACE:NAME"),
        (["--tls-secret=A/B"], "'A/B' cannot be the name of a Secret: write the name alone"),
        (["--tls-secret=a", "--tls-secret-namespace=a.b"], "cannot be the name of a Namespace"),
        (["--leader-elect-resource-name=a/b"], "cannot be the name of a Lease"),
        (["--tls-secret=a", "--mutating-webhook=A"], "name of a MutatingWebhookConfiguration"),
    ],
)
def test_flags_that_cannot_work_are_refused_with_a_remedy(flags: list[str], remedy: str) -> None:
    done = CliRunner().invoke(cli, ["scheduler", *flags], env={"POD_NAMESPACE": None})
    assert done.exit_code == 2
    assert remedy in " ".join(done.output.split())


@pytest.mark.parametrize(
    "user",
    ["kubernetes-admin", "ops@example.com", "system:kube-scheduler", "system:serviceaccount:n:a"],
)
async def test_any_user_may_be_trusted_and_who_may_be_meant_otherwise_is_told(
    started: Any, bench: Any, tmp_path: Path, user: str
) -> None:
    flags = (*CHART, f"--trusted-account={user}")
    async with started(bench.server.kubeconfig(tmp_path / "config"), *flags) as process:
        told = [line for line in process.lines if "no service account" in line]
    assert [user in line for line in told] == [True] * (not user.startswith("system:"))


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:99999", "127.0.0.1:-1", "nothing", "foo:bar", "::1:80", "http://a:80", "[a]:1"],
)
@pytest.mark.parametrize("flag", ["--http_bind", "--metrics-bind-address"])
def test_an_address_that_is_none_is_refused_with_its_flag(flag: str, listen: str) -> None:
    done = CliRunner().invoke(cli, ["scheduler", f"{flag}={listen}"])
    assert done.exit_code == 2
    assert f"Invalid value for '{flag}': {listen!r} is no host:port; " in done.output


@pytest.mark.parametrize("flag", ["--http_bind", "--metrics-bind-address"])
def test_a_port_that_somebody_has_is_refused_with_its_flag(
    bench: Any, tmp_path: Path, flag: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        flags = ["--http_bind=127.0.0.1:0", "--metrics-bind-address=", f"{flag}={listen}"]
        environment = {"KUBECONFIG": str(bench.server.kubeconfig(tmp_path / "config"))}
        done = CliRunner().invoke(cli, ["scheduler", *flags], env=environment)
    assert done.exit_code == 1
    assert (
        f"error: cannot listen on {listen!r}: Address already in use; give another" in done.output
    )
    assert f"with {flag}" in done.output


@pytest.mark.parametrize(
    ("kubeconfig", "says"),
    [
        ("/nowhere/config", "kubeconfig /nowhere/config: No such file or directory; correct"),
        (None, "no KUBECONFIG is set, and this is no pod with a service account"),
    ],
)
def test_without_a_way_to_an_api_server_it_does_not_start(
    kubeconfig: str | None, says: str
) -> None:
    flags = ["--http_bind=127.0.0.1:0", "--metrics-bind-address="]
    environment = {"KUBECONFIG": kubeconfig, "KUBERNETES_SERVICE_HOST": None}
    done = CliRunner().invoke(cli, ["scheduler", *flags], env=environment)
    assert done.exit_code == 1
    assert f"error: no way to the API server: {says}" in done.output


@pytest.mark.parametrize("flag", ["-v=4", "-v4", "--v=4"])
def test_a_flag_of_one_letter_has_one_dash_or_two(flag: str) -> None:
    environment = {"KUBECONFIG": None, "KUBERNETES_SERVICE_HOST": None}
    done = CliRunner().invoke(cli, ["scheduler", flag], env=environment)
    assert "no way to the API server" in done.output


def test_files_that_hold_no_certificate_are_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "tls.crt"
    file.write_text("none")
    flags = [f"--cert_file={file}", f"--key_file={file}", "--metrics-bind-address="]
    done = CliRunner().invoke(cli, ["scheduler", *flags])
    assert done.exit_code == 1
    assert f"error: {file} holds no certificate in PEM" in done.output


async def test_the_device_configuration_is_followed_and_its_pod_tells_of_it(
    started: Any, bench: Any, make: Any, tmp_path: Path
) -> None:
    def publish(text: str) -> None:
        """As kubelet swaps a ConfigMap that is mounted as a directory."""
        generation = mounted / f"..{len(list(mounted.iterdir()))}"
        generation.mkdir()
        (generation / "device-config.yaml").write_text(text)
        link, fresh = mounted / "device-config.yaml", mounted / "..data_tmp"
        if not link.is_symlink():
            link.symlink_to("..data/device-config.yaml")
        fresh.symlink_to(generation.name)
        fresh.rename(mounted / "..data")

    mounted = tmp_path / "config"
    mounted.mkdir()
    publish("nvidia: {resourceCountName: nvidia.com/gpu}")
    node = make.node("a")
    for part in node["status"].values():
        part["example.com/gpu"] = "20"
    bench.server.create("nodes", node)
    pod = make.pod("p")
    pod["spec"]["containers"][0]["resources"]["limits"] = {"example.com/gpu": "1"}
    bench.server.create("pods", pod)
    kubeconfig = bench.server.kubeconfig(tmp_path / "kubeconfig")
    flags = ("--metrics-bind-address=", f"--device-config-file={mounted}/device-config.yaml")
    mine = {"POD_NAME": "scheduler-0", "POD_NAMESPACE": "kube-system", "POD_UID": "u"}
    async with started(kubeconfig, *flags, **mine) as process:
        await answered(bench, process, "'a'")
        assert VGPU_NODE not in str(bench.server.get("pods", "p", "default"))
        publish("nvidia: {resourceCountName: 3}")
        await process.until("DeviceConfigurationFailed")
        publish("nvidia: {resourceCountName: example.com/gpu}")
        await process.until("DeviceConfigurationChanged")
        await answered(bench, process, "'a'")
        assert VGPU_NODE in str(bench.server.get("pods", "p", "default"))
        process.process.send_signal(signal.SIGHUP)
        await process.until("is as it is in force")
        assert await process.stop() == 0
    told = {
        event["reason"]: event["type"]
        for event in bench.server.objects("events", "kube-system")
        if event["involvedObject"]["name"] == "scheduler-0"
    }
    assert told == {"DeviceConfigurationFailed": "Warning", "DeviceConfigurationChanged": "Normal"}


def test_a_device_configuration_that_is_wrong_at_the_start_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "device-config.yaml"
    file.write_text("nvidia: {memoryFactor: many}")
    done = CliRunner().invoke(cli, ["scheduler", f"--device-config-file={file}"])
    assert done.exit_code == 1
    assert "nvidia.memoryFactor" in done.output
