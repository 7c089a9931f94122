"""What the programs of this folder share: processes on loopback, kubectl, the commands of the page of
the plain manifests, and objects.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PLAIN = Path(__file__).parents[2] / "charts" / "plain"
NAMESPACE, NAME = "deviceplugin-system", "deviceplugin-scheduler"
GPU = "nvidia.com/gpu"
ACCOUNT = "deviceplugin-lab"
"""Who may do everything on a cluster that was given."""
POLICY = "60-decisions.yaml"
DECISION = "hami.io/vgpu-devices-allocated"
SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(what: str, condition: Callable[[], Any]) -> Any:
    """What the condition answers once it holds."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError, RuntimeError):
            if answer := condition():
                return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {SECONDS:g} s: {what}")


class Lab:
    """An API server of its own, other processes on loopback, and kubectl as whoever one wants to be."""

    def __init__(self, binaries: Path, root: Path) -> None:
        self.binaries, self.root = binaries, root
        self.port = free_port()
        self.admin = secrets.token_hex(16)
        """Who may do everything."""
        self._stack = contextlib.ExitStack()
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self.failures = 0

    def __enter__(self) -> Lab:
        client, peer = free_port(), free_port()
        self.start(
            "etcd",
            f"--data-dir={self.root / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        )
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        signing = self.root / "accounts.key"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        signing.write_bytes(pem)
        tokens = self.root / "tokens.csv"
        tokens.write_text(f'{self.admin},admin,admin,"system:masters"\n')
        self.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{client}",
            f"--cert-dir={self.root / 'certs'}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
        )
        until("the API server is ready", lambda: self.kubectl("get", "--raw", "/readyz") == "ok")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self, name: str, *flags: str, command: tuple[str, ...] = (), **env: str
    ) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.root / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [*(command or (str(self.binaries / name),)), *flags],
            stdout=log,
            stderr=log,
            env={**os.environ, **env},
        )
        self._stack.callback(_ended, process)
        self._started[name] = process
        return process

    def spent(self) -> dict[str, float]:
        """Seconds of CPU of everything that was started and runs, by name."""
        found = {}
        for name, process in self._started.items():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def kubeconfig(self, name: str, token: str) -> Path:
        path = self.root / f"{name}.kubeconfig"
        server = f"https://127.0.0.1:{self.port}"
        cluster = {"server": server, "insecure-skip-tls-verify": True}
        found = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {"token": token}}],
        }
        path.write_text(json.dumps(found))
        return path

    def kubectl(self, *args: str, token: str = "", stdin: Any = None) -> str:
        """One call; raises `RuntimeError` with what it says."""
        done = subprocess.run(
            [
                str(self.binaries / "kubectl"),
                f"--server=https://127.0.0.1:{self.port}",
                "--insecure-skip-tls-verify",
                f"--token={token or self.admin}",
                *args,
            ],
            input=None if stdin is None else json.dumps(stdin),
            capture_output=True,
            text=True,
            check=False,
            cwd=PLAIN,
            env={**os.environ, "HOME": str(self.root), "KUBECONFIG": "/dev/null"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    @property
    def version(self) -> str:
        """``v1.36.2``."""
        found = json.loads(self.kubectl("version", "-o", "json"))
        return str(found["serverVersion"]["gitVersion"])

    @property
    def has_policy(self) -> bool:
        """Kubernetes 1.30 and newer; those also say in tokens which node they are for."""
        return int(self.version.split(".")[1]) >= 30

    def get(self, *args: str) -> Any:
        return json.loads(self.kubectl("get", "-o", "json", *args))

    def says(self, text: str, call: Callable[[], Any]) -> bool:
        """Whether a call is refused with such words."""
        try:
            call()
        except RuntimeError as error:
            return text in str(error)
        return False

    def holds(self, what: str, answer: Any) -> None:
        """Print whether it does."""
        print(f"{'ok' if answer else 'NO'}  {what}", flush=True)
        self.failures += not answer


class Given(Lab):
    """A cluster that KUBECONFIG leads to, on loopback. Leaves behind only what its users make."""

    def __enter__(self) -> Lab:
        server = self._owner(
            "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"
        )
        self.port = int(server.rpartition(":")[2])
        self._forget()
        self._owner("-n", "kube-system", "create", "serviceaccount", ACCOUNT)
        subject = f"--serviceaccount=kube-system:{ACCOUNT}"
        self._owner("create", "clusterrolebinding", ACCOUNT, "--clusterrole=cluster-admin", subject)
        token = ("-n", "kube-system", "create", "token", ACCOUNT, "--duration=3h")
        self.admin = self._owner(*token).strip()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._forget()

    def _forget(self) -> None:
        what = ("serviceaccount,clusterrolebinding", ACCOUNT)
        self._owner("-n", "kube-system", "delete", "--ignore-not-found", *what)

    def _owner(self, *args: str) -> str:
        command = [str(self.binaries / "kubectl"), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Service:
    """What kube-proxy does for a Service: new connections go to the replicas that are listed, in
    turn; open ones stay where they are.
    """

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._turn = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self._turn += 1
            ports = self.ports
            try:
                server = socket.create_connection(("127.0.0.1", ports[self._turn % len(ports)]))
            except OSError:
                client.close()
                continue
            for ends in ((client, server), (server, client)):
                threading.Thread(target=_piped, args=ends, daemon=True).start()


def _piped(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def commands(heading: str, without: str = "") -> Iterator[list[str]]:
    """The kubectl commands of a section of the page, without waiting for a Deployment, and without
    one of the files.
    """
    text = (PLAIN / "README.md").read_text().partition(f"## {heading}\n")[2]
    block = text.partition("```console\n")[2].partition("```")[0]
    for line in block.splitlines():
        if line.startswith("$ kubectl ") and "rollout" not in line:
            text = line.removeprefix("$ kubectl ")
            if without:
                text = text.replace(f" -f {without}", "")
            if " -f " in text:
                yield text.split()


def webhooks_at(lab: Lab, service: Service) -> None:
    """The webhooks' addresses: a Service needs nodes, and API servers a way there."""
    for plural in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        path = lab.get(plural, NAME)["webhooks"][0]["clientConfig"]["service"]["path"]
        url = f"https://localhost:{service.port}{path}"
        change = [{"op": "replace", "path": "/webhooks/0/clientConfig", "value": {"url": url}}]
        lab.kubectl("patch", plural, NAME, "--type=json", "-p", json.dumps(change))


def with_flags(args: list[str], changed: dict[str, str]) -> list[str]:
    """Flags with other values."""
    names = [arg.partition("=")[0] for arg in args]
    return [f"{n}={changed[n]}" if n in changed else a for n, a in zip(names, args, strict=True)]


STATUS = {
    "status": {
        "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110", GPU: "10"},
        "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", GPU: "10"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "x", "message": "x"}],
    }
}


def pod(name: str, *, asks: bool = True, **more: Any) -> dict[str, Any]:
    resources = {"limits": {GPU: "1", "nvidia.com/gpumem": "1000"}} if asks else {}
    container = {"name": "c", "image": "x", "resources": resources}
    annotations = more.pop("annotations", {})
    namespace = more.pop("namespace", "default")
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    spec = {"containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
