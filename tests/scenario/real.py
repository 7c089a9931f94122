"""The story's node on a real kubelet, through kubectl: ``python tests/scenario/real.py OUT``.

Needs root, a cluster of one node called node-a that runs pods of the image localhost/busybox:1,
kubectl with KUBECONFIG, and RESTART_KUBELET, a command that restarts kubelet. Writes the transcript
to OUT.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from scenario import RESOURCE, Story

PLUGINS = Path("/var/lib/kubelet/device-plugins")
CDI = Path("/var/run/cdi")
PRINT = "env | grep MOCK_ ; echo nodes=$(ls -d /dev/mock* 2>/dev/null); echo end; sleep 100000"


def kubectl(*args: str, stdin: str | None = None) -> str:
    """One kubectl call; its output."""
    done = subprocess.run(
        ["kubectl", *args], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr}")
    return done.stdout


class RealCluster:
    """Implements `scenario.Cluster`."""

    fault_seconds = 25.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.flags = {"run-dir": str(root / "run")}
        self._containers: dict[str, str] = {}

    async def amounts(self) -> tuple[int, int]:
        status = json.loads(kubectl("get", "node", "node-a", "-o", "json"))["status"]
        found = [int(status[key].get(RESOURCE, 0)) for key in ("capacity", "allocatable")]
        return found[0], found[1]

    async def run_pod(self, name: str, count: int, env: dict[str, str]) -> dict[str, str]:
        container = {
            "name": "main",
            "image": "localhost/busybox:1",
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", PRINT],
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "resources": {"limits": {RESOURCE: str(count)}},
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        self._containers[name] = self._container(name)
        uid = kubectl("get", "pod", name, "-o", "jsonpath={.metadata.uid}")
        log = Path(f"/var/log/pods/default_{name}_{uid}/main/0.log")
        for _ in range(100):
            lines = [line.split(" ", 3)[3] for line in log.read_text().splitlines()]
            if "end" in lines:
                break
            await asyncio.sleep(0.1)
        return dict(line.split("=", 1) for line in lines if "=" in line)

    async def is_running(self, name: str) -> bool:
        phase = kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")
        return phase == "Running" and self._container(name) == self._containers[name]

    async def delete_pod(self, name: str) -> None:
        kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=true")

    async def restart_kubelet(self) -> None:
        subprocess.run(os.environ["RESTART_KUBELET"], shell=True, check=True)

    def traces(self) -> list[str]:
        return [
            path.name
            for folder in (PLUGINS, CDI)
            if folder.exists()
            for path in folder.iterdir()
            if "deviceplugin" in path.name
        ]

    def _container(self, name: str) -> str:
        path = "jsonpath={.status.containerStatuses[0].containerID}"
        return kubectl("get", "pod", name, "-o", path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dps-", dir="/tmp") as place:
        try:
            lines = asyncio.run(Story(RealCluster(Path(place))).tell())
        except BaseException:
            print((Path(place) / "agent.log").read_text()[-6000:], file=sys.stderr)
            raise
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    Path(sys.argv[1]).write_text(f"# kubelet {version}\n" + "\n".join(lines) + "\n")
