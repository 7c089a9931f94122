"""A pod gets a share of a card: the agent as it runs on nodes, with the kubelet of the wheel."""

import asyncio
import sys
import tempfile
from pathlib import Path

from deviceplugin.testing.kubelet import Admitted, Container, Pod, embedded_kubelet

RESOURCE = "acme.example.com/accelerator"


async def one_pod(directory: Path) -> None:
    (directory / "host/dev").mkdir(parents=True)
    (directory / "host/dev/acme0").touch()
    async with embedded_kubelet(directory) as kubelet:
        flags = {
            "vendors": "acme",
            "host-root": directory / "host",
            "kubelet-socket": kubelet.kubelet_socket,
            "pod-resources-socket": kubelet.pod_resources_socket,
            "run-dir": directory / "run",
            "cdi-dir": directory / "cdi",
            "http-listen": "",
        }
        command = [sys.executable, "-m", "deviceplugin", "serve"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        agent = await asyncio.create_subprocess_exec(*command)
        try:
            await kubelet.wait_registered(RESOURCE, 60)
            result = await kubelet.admit(Pod("p", (Container("main", {RESOURCE: 1}),)))
            assert isinstance(result, Admitted)
            config = await kubelet.start_container(result.pod.uid, "main")
            assert config.effective_env()["ACME_MEMORY_MIB_0"] == "2048"
            assert kubelet.findings == []
        finally:
            agent.terminate()
            await agent.wait()


def test_a_pod_gets_a_share() -> None:
    with tempfile.TemporaryDirectory() as directory:  # short: names of sockets have 107 bytes
        asyncio.run(one_pod(Path(directory)))
