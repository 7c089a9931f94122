"""The story under schedulers on a real cluster: ``python tests/scenario/scheduled_real.py OUT``.

Needs what real.py needs, and that the containers' processes run on this machine. Writes the
transcript to OUT.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from real import kubectl
from scheduled import ScheduledStory, Seen
from scheduled_embedded import reason

from deviceplugin.apiserver.client import Api
from deviceplugin.apiserver.client import Path as ApiPath

PRINT = "echo begin; env | grep MOCK_; echo end"
PLUGINS = Path("/var/lib/kubelet/device-plugins")


class RealWorld:
    """Implements `scheduled.World`."""

    checkpoint = PLUGINS / "kubelet_internal_checkpoint"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kubeconfig = Path(os.environ["KUBECONFIG"])
        self.flags = {"run-dir": str(root / "run"), "cdi-dir": "/var/run/cdi"}
        self._api = Api()

    def api(self) -> Api:
        return Api()

    def decorate(self, pod: dict[str, Any], *, gated: bool) -> dict[str, Any]:
        spec = pod["spec"]
        spec["terminationGracePeriodSeconds"] = 0
        spec["restartPolicy"] = "Always"
        for kind in ("initContainers", "containers"):
            for container in spec[kind]:
                ends = kind == "initContainers" and "restartPolicy" not in container
                container |= {
                    "image": "localhost/busybox:1",
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", PRINT if ends else f"{PRINT}; sleep 100000"],
                }
        if gated:
            # Kubelet admits the pod and waits for the volume before it starts a container.
            gate = f"gate-{pod['metadata']['name']}"
            spec["volumes"] = [{"name": "gate", "configMap": {"name": gate}}]
            spec["containers"][0]["volumeMounts"] = [{"name": "gate", "mountPath": "/gate"}]
        return pod

    async def outcome(self, name: str, seconds: float) -> Seen:
        async with asyncio.timeout(seconds):
            while True:
                pod = await asyncio.to_thread(self._api.call, "GET", ApiPath.pod("default", name))
                if (seen := self._seen(pod)) is not None:
                    return seen
                await asyncio.sleep(0.3)

    def _seen(self, pod: dict[str, Any]) -> Seen | None:
        """None while something is still on its way."""
        seen: Seen = {}
        spec, status = pod["spec"], pod.get("status", {})
        names = [c["name"] for k in ("initContainers", "containers") for c in spec.get(k, ())]
        if status.get("phase") == "Failed":
            return {names[0]: {"refused": reason(status.get("message", ""))}}
        listed = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
        states = {item["name"]: item["state"] for item in listed}
        for name in names:
            waiting = states.get(name, {}).get("waiting", {})
            if waiting.get("reason") == "CreateContainerConfigError":
                seen[name] = {"refused": reason(waiting.get("message", ""))}
                return seen
            if (printed := self._printed(pod, name)) is None:
                return None
            seen[name] = printed
        return seen

    def _printed(
        self, pod: dict[str, Any], container: str, attempt: int = 0
    ) -> dict[str, str] | None:
        metadata = pod["metadata"]
        folder = Path(f"/var/log/pods/default_{metadata['name']}_{metadata['uid']}/{container}")
        try:
            text = (folder / f"{attempt}.log").read_text()
        except OSError:
            return None
        lines = [line.split(" ", 3)[3] for line in text.splitlines() if line.count(" ") >= 3]
        if "end" not in lines:
            return None
        return dict(line.split("=", 1) for line in lines if "=" in line)

    async def open_gate(self, name: str) -> None:
        kubectl("create", "configmap", f"gate-{name}")

    async def restart_container(self, name: str, container: str) -> dict[str, str]:
        pod = await asyncio.to_thread(self._api.call, "GET", ApiPath.pod("default", name))
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"HOSTNAME={name}".encode() in variables:
                os.kill(int(process.name), signal.SIGKILL)
        async with asyncio.timeout(60):
            while (printed := self._printed(pod, container, 1)) is None:
                await asyncio.sleep(0.3)
        return printed

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(
            kubectl, "delete", "pod", name, "--grace-period=0", "--force", "--wait=true"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dps-", dir="/tmp") as place:
        try:
            lines = asyncio.run(ScheduledStory(RealWorld(Path(place))).tell())
        except BaseException:
            print((Path(place) / "agent.log").read_text()[-6000:], file=sys.stderr)
            raise
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    Path(sys.argv[1]).write_text(f"# Kubernetes {version}\n" + "\n".join(lines) + "\n")
