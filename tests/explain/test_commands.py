"""The commands, on a cluster over HTTP and on a captured one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deviceplugin.cli.main import cli
from deviceplugin.cli.scheduler import scheduler
from deviceplugin.testing.apiserver import ApiServer

DECIDING = {
    "--scheduler-name",
    "--node-scheduler-policy",
    "--gpu-scheduler-policy",
    "--device-config-file",
    "--node-label-selector",
    "--force-overwrite-default-scheduler",
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


@pytest.fixture
def cluster(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    with ApiServer() as server:
        for item in (make.node("gpu-1"), make.node("gpu-2", 1), make.node("cpu-1", 0)):
            server.create("nodes", item)
        there = make.pod("there", 9000, 20, on="gpu-1")
        secret = [{"name": "TOKEN", "value": "hunter2"}]
        there["spec"]["containers"][0] |= {"image": "train:1", "env": secret}
        status = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3"}]}
        server.create("pods", there)
        server.create("pods", make.pod("waits", 17000, 20, status=status))
        server.create("resourcequotas", make.quota(gpumem="50000"))
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


def test_a_pod_that_waits_answer_first(cluster: ApiServer) -> None:
    found = run("explain", "waits", "-n", "team")
    assert found.exit_code == 1
    assert found.output == (
        "team/waits is pending: none of 3 nodes serves it: on 2, too little memory is left: 16,384 MiB at\n"
        "most on a card (gpu-2), 17,000 MiB are asked for.\n"
        "\n"
        "It asks for\n"
        "  main: 1 × nvidia.com/gpu, 17,000 MiB and 20% of its cores\n"
        "\n"
        "What would make it fit\n"
        "  → ask for at most 16,384 MiB per card (nvidia.com/gpumem: 16384): fits on 2 nodes, gpu-1 for one\n"
        "\n"
        "Beside that\n"
        "  · kube-scheduler says: 0/3\n"
        "\n"
        "Why not on 3 nodes\n"
        "      2  CardInsufficientMemory\n"
        "         too little memory is left: 16,384 MiB at most on a card (gpu-2), 17,000 MiB are asked for\n"
        "         gpu-1, gpu-2\n"
        "      1  NodeInsufficientDevice\n"
        "         the node tells of no such device\n"
        "         cpu-1\n"
        "\n"
        "`--node gpu-1` lists a node's cards, `--all-nodes` those of all.\n"
    )


def test_a_node_card_by_card(cluster: ApiServer) -> None:
    found = run("explain", "team/waits", "--node", "gpu-1")
    assert "gpu-1: CardInsufficientMemory: 2 of 2 cards" in found.output
    rows = found.output.splitlines()[-2:]
    assert rows[0].split()[:2] == ["0", "gpu-1-0"]
    assert "CardInsufficientMemory: asks 17000 MiB, 7384 of 16384 are free" in rows[0]
    both = run("explain", "team/waits", "--all-nodes").output
    assert all(f"{name}: " in both for name in ("gpu-1", "gpu-2", "cpu-1"))


def test_a_pod_that_is_well_ends_with_0(cluster: ApiServer) -> None:
    found = run("explain", "pod/there", "--namespace", "team")
    assert found.exit_code == 0
    assert found.output.startswith("team/there runs on gpu-1 with 9,000 MiB and 20% of gpu-1-0.")


def test_json_has_everything(cluster: ApiServer) -> None:
    found = json.loads(run("explain", "team/waits", "-o", "json", "--node", "gpu-2").output)
    assert found["standing"] == "unfit"
    assert found["asks"][0]["resource"] == "nvidia.com/gpu"
    assert found["remedies"] == [
        {
            "do": "ask for at most 16,384 MiB per card (nvidia.com/gpumem: 16384)",
            "changes": [
                {
                    "kind": "Cap",
                    "resource": "nvidia.com/gpumem",
                    "amount": 16384,
                    "containers": ["main"],
                    "said": "16,384 MiB per card",
                }
            ],
            "nodes": ["gpu-1", "gpu-2"],
        }
    ]
    assert found["groups"][0]["nodes"] == ["gpu-1", "gpu-2"]
    (node,) = found["nodes"]
    assert node["cards"][0]["freeMemoryMiB"] == 16384
    assert node["cards"][0]["obstacle"] == "CardInsufficientMemory"


def test_a_captured_cluster_tells_the_same_and_no_secret(
    cluster: ApiServer, tmp_path: Path
) -> None:
    path = tmp_path / "cluster.json.gz"
    found = run("snapshot", "-o", str(path))
    assert found.exit_code == 0
    assert "3 nodes, 2 pods, 1 quotas" in found.output
    plain = tmp_path / "cluster.json"
    assert run("snapshot", "-o", str(plain)).exit_code == 0
    text = plain.read_text()
    assert "hunter2" not in text
    assert "train:1" not in text
    live = [run("explain", f"team/{name}", "--all-nodes").output for name in ("waits", "there")]
    for file in (path, plain):
        saved = [
            run("explain", f"team/{name}", "--all-nodes", "--snapshot", str(file)).output
            for name in ("waits", "there")
        ]
        assert saved == live


def test_another_device_configuration_is_warned_of(cluster: ApiServer, tmp_path: Path) -> None:
    path, config = tmp_path / "cluster.json", tmp_path / "device-config.yaml"
    config.write_text("nvidia:\n  resourceCountName: example.com/gpu\n")
    run("snapshot", "-o", str(path))
    arguments = ("explain", "team/waits", "--snapshot", str(path))
    assert "warning" not in run(*arguments).output
    found = run(*arguments, "--device-config-file", str(config))
    assert "warning: the cluster was captured with another device configuration" in found.output


def test_an_unknown_pod_or_node_or_file(cluster: ApiServer, tmp_path: Path) -> None:
    found = run("explain", "waits")
    assert (found.exit_code, found.output) == (
        1, "error: no pod waits in namespace default; there is team/waits\n",
    )  # fmt: skip
    found = run("explain", "team/waits", "--node", "nowhere")
    assert found.exit_code == 2
    assert "no node nowhere among 3; cpu-1 is one" in found.output
    assert "did you mean gpu-2?" in run("explain", "team/waits", "--node", "gpu2").output
    found = run("explain", "team/waits", "-n", "other")
    assert found.exit_code == 2
    other = tmp_path / "list.json"
    other.write_text('{"kind": "List", "items": []}')
    found = run("explain", "team/waits", "--snapshot", str(other))
    assert found.exit_code == 2
    assert "no snapshot: it has no format" in found.output


def test_a_server_that_is_away_is_named(cluster: ApiServer, tmp_path: Path) -> None:
    cluster.stop()
    for command in (("explain", "team/waits"), ("snapshot", "-o", str(tmp_path / "x"))):
        found = run(*command)
        assert found.exit_code == 1
        assert found.output.startswith("error: GET /api/v1/")
        assert ": Connection refused; see that the server is up" in found.output


def test_an_account_that_may_not_is_told_so(cluster: ApiServer) -> None:
    cluster.faults.deny.add(("list", "pods"))
    found = run("explain", "team/waits")
    assert found.exit_code == 1
    assert "give this account the right to it" in found.output


def test_without_any_way_to_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: ApiServer
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = run("explain", "team/waits")
    assert found.exit_code == 2
    assert "no way to an API server: give --kubeconfig" in found.output
    assert run("explain", "team/there", "--kubeconfig", str(kubeconfig)).exit_code == 0
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(kubeconfig.read_text())
    assert run("explain", "team/there").exit_code == 0
    found = run("explain", "team/there", "--context", "another")
    assert found.exit_code == 2
    assert "another" in found.output


def test_a_foreign_text_moves_no_cursor(make: Any, cluster: ApiServer) -> None:
    status = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "\x1b[2J"}]}
    cluster.create("pods", make.pod("odd", 17000, status=status))
    assert "\x1b" not in run("explain", "team/odd").output


@pytest.mark.parametrize("command", ["explain", "snapshot", "simulate"])
def test_who_says_what_the_scheduler_would_do_takes_its_options(command: str) -> None:
    found = cli.get_command(None, command)  # type: ignore[arg-type]
    assert found is not None
    flags = {flag for parameter in found.params for flag in parameter.opts}
    assert flags >= DECIDING
    assert {flag for parameter in scheduler.params for flag in parameter.opts} >= DECIDING


@pytest.mark.parametrize("pod", ["a/b/c", "a/", "/b", ""])
def test_a_pod_that_none_can_be_is_wrong_usage(pod: str) -> None:
    found = run("explain", pod)
    assert found.exit_code == 2
    assert f"{pod!r} is no pod: write NAME and --namespace, or NAMESPACE/NAME" in found.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory"),
        ("", "file is empty"),
        ("hello", "not made as a kubeconfig is"),
        ("{", "not YAML"),
        ("current-context: x", "Invalid kube-config"),
    ],
)
@pytest.mark.parametrize(
    "command", [("explain", "a/b"), ("snapshot", "-o", "/dev/null"), ("doctor", "--cluster")]
)
def test_a_kubeconfig_that_cannot_be_used_is_named(
    tmp_path: Path, command: tuple[str, ...], text: str | None, says: str
) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    found = run(*command, "--kubeconfig", str(file))
    assert found.exit_code == 2
    assert f"kubeconfig {file}: " in found.output
    assert says in found.output
    assert "correct --kubeconfig or KUBECONFIG" in found.output


def test_a_device_configuration_that_is_refused_is_wrong_usage(tmp_path: Path) -> None:
    for command in (["explain", "a/b"], ["simulate"]):
        found = run(*command, "--snapshot" if command[0] == "explain" else "--generate", "nodes=1",
                    "--device-config-file", str(tmp_path / "none.yaml"))  # fmt: skip
        assert found.exit_code == 2
        assert "none.yaml: no such file; correct the path" in found.output


def test_a_file_that_cannot_be_written_is_named(cluster: ApiServer, tmp_path: Path) -> None:
    file = tmp_path / "no-such-directory" / "cluster.json"
    found = run("snapshot", "-o", str(file))
    assert found.exit_code == 1
    assert f"error: {file}: cannot be written: No such file or directory" in found.output


def test_of_thousands_of_types_that_a_pod_wants_the_first_are_named_and_the_others_counted(
    make: Any, cluster: ApiServer
) -> None:
    kinds = ",".join(f"kind{number:04}" for number in range(5000))
    pod = make.pod("picky", annotations={"nvidia.com/use-gputype": kinds})
    cluster.create("pods", pod)
    found = run("explain", "team/picky", "--all-nodes")
    text = " ".join(found.output.split())
    assert "the pod wants kind0000, kind0001, kind0002, kind0003, kind0004 and 4,995 more" in text
