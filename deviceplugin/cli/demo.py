"""``deviceplugin demo``: the real agent on the embedded kubelet, step by step.

The agent is the same process that serves a node; only kubelet and the devices are simulated. Every
step says what it expects and the command fails when one does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

CARD_FAILS, CARD_RETURNS = 1.5, 4.0
"""Seconds after the second configuration at which a card fails and comes back."""

REASON = "Xid 79: fallen off the bus (simulated)"


class StepError(Exception):
    """A step did not hold."""


@click.command()
@click.option("--profile", default="small", help="A shipped profile or a file for the mock vendor.")
@click.option(
    "--pod",
    "pods",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A pod manifest of your own instead of the two of the first act; repeatable.",
)
@click.option("--agent-log", is_flag=True, help="Show the agent's log as well.")
def demo(profile: str, pods: tuple[Path, ...], agent_log: bool) -> None:
    """Watch pods get their slices, without hardware and without a cluster.

    Exit codes: 0 every step held, 1 one did not, 2 wrong usage.
    """
    root = Path(tempfile.mkdtemp(prefix="dpdemo-", dir="/tmp"))
    try:
        asyncio.run(_Demo(root, profile, pods, agent_log).run())
    except StepError as error:
        click.secho(f"  ✗ {error}", fg="red")
        sys.exit(1)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _say(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _held(text: str) -> None:
    click.echo(click.style("  ✓ ", fg="green") + text)


def _show(text: str) -> None:
    click.secho(f"      {text}", dim=True)


class _Demo:
    def __init__(self, root: Path, profile: str, pods: tuple[Path, ...], agent_log: bool) -> None:
        from deviceplugin.testing.kubelet import EmbeddedKubelet

        self._root, self._pods, self._agent_log = root, pods, agent_log
        path = Path(profile)
        self._profile = str(path.resolve()) if path.exists() else profile
        self._kubelet = EmbeddedKubelet(root, numa_nodes=8)
        self._config = root / "config" / "config.json"
        self._cdi = root / "cdi"
        self._agent: asyncio.subprocess.Process | None = None
        self._resource = ""

    async def run(self) -> None:
        await self._kubelet.start()
        try:
            await self._discovery()
            await self._sharing()
            await self._cdi_container()
            await self._failing_card()
            await self._kubelet_restart()
            await self._stop()
        finally:
            if self._agent and self._agent.returncode is None:
                self._agent.kill()
                await self._agent.wait()
            await self._kubelet.stop()
        if self._kubelet.findings:
            raise StepError(f"kubelet found fault with the agent: {self._kubelet.findings}")
        _held("a strict kubelet found no fault with the agent")

    async def _discovery(self) -> None:
        _say("1. The agent finds the node's devices, splits them, and registers with kubelet")
        self._write_config(["envvar"])
        await self._start_agent()
        await self._until(lambda: bool(self._kubelet.capacity()), "the agent registers a resource")
        self._resource = next(iter(self._kubelet.capacity()))
        await self._until(lambda: self._kubelet.is_watched(self._resource), "a list arrives")
        devices = self._kubelet.devices(self._resource)
        cards = sorted({identity.rpartition("-")[0] for identity in devices})
        for card in cards[:8]:
            _show(card)
        _held(f"{self._resource}: {len(devices)} virtual devices on {len(cards)} cards")

    async def _sharing(self) -> None:
        from deviceplugin.testing.kubelet import Container, Pod

        if self._pods:
            _say("2. Your pods are admitted")
            import yaml

            for path in self._pods:
                pod = Pod.from_manifest(yaml.safe_load(path.read_text()))
                await self._run_pod(pod)
            return
        _say("2. Two pods are admitted: one share, and two shares on different cards")
        one = Pod("one-share", (Container("main", {self._resource: 1}),))
        await self._run_pod(one)
        two = Pod("two-shares", (Container("main", {self._resource: 2}),))
        await self._run_pod(two)
        held = self._kubelet.held(two.uid, "main")[self._resource]
        if len({identity.rpartition("-")[0] for identity in held}) != 2:
            raise StepError(f"the two shares are on one card: {held}")
        _held("the two shares are on different cards")

    async def _cdi_container(self) -> None:
        from deviceplugin.testing.kubelet import Container, Pod

        _say("3. The configuration changes to CDI while the agent runs; a third pod tries to cheat")
        self._write_config(
            ["cdi-cri"],
            startedAt=time.time(),
            faults=[
                {
                    "at": CARD_FAILS,
                    "until": CARD_RETURNS,
                    "device": 0,
                    "fault": "unhealthy",
                    "reason": REASON,
                }
            ],
        )
        kubelet = self._kubelet
        before = sum(call.method == "Register" for call in kubelet.calls)
        assert self._agent is not None
        self._agent.send_signal(signal.SIGHUP)
        await self._until(
            lambda: (
                sum(call.method == "Register" for call in kubelet.calls) > before
                and kubelet.is_watched(self._resource)
            ),
            "the agent registers again",
        )
        variable = "MOCK_MEMORY_LIMIT_0"
        pod = Pod("cdi", (Container("main", {self._resource: 1}, {variable: "999999m"}),))
        config = await self._run_pod(pod)
        oci = config.apply_cdi([self._cdi])
        env = dict(entry.split("=", 1) for entry in oci["process"]["env"])
        for name, value in sorted(env.items()):
            _show(f"env {name}={value}")
        for device in oci["linux"]["devices"]:
            _show(f"node {device['path']} ({device['type']} {device['major']}:{device['minor']})")
        if env[variable] == "999999m":
            raise StepError(f"the pod's own {variable} beat the limit")
        _held(f"the pod set {variable}=999999m itself and still has {env[variable]}")

    async def _failing_card(self) -> None:
        _say("4. A card fails and recovers")
        kubelet, total = self._kubelet, self._kubelet.capacity()[self._resource]
        await self._until(
            lambda: kubelet.allocatable()[self._resource] < total, "a failing card is noticed"
        )
        left = kubelet.allocatable()[self._resource]
        _show(REASON)
        _held(f"allocatable fell from {total} to {left}, capacity stayed {total}")
        await self._until(
            lambda: kubelet.allocatable()[self._resource] == total, "the card recovers"
        )
        _held(f"allocatable is {total} again")

    async def _kubelet_restart(self) -> None:
        _say("5. Kubelet restarts")
        before = dict(self._kubelet.records)
        await self._kubelet.restart()
        await self._until(lambda: self._kubelet.is_watched(self._resource), "the agent comes back")
        if self._kubelet.records != before:
            raise StepError("kubelet's records changed over the restart")
        _held("the agent registered again; every pod kept its devices")

    async def _stop(self) -> None:
        _say("6. The agent is stopped")
        assert self._agent is not None
        self._agent.terminate()
        code = await asyncio.wait_for(self._agent.wait(), 10)
        left = [p.name for p in self._kubelet.plugin_dir.glob("deviceplugin-*")]
        if code or left:
            raise StepError(f"the agent ended with {code} and left {left or 'nothing'}")
        _held("it ended with 0 and left no socket")

    async def _run_pod(self, pod: Any) -> Any:
        """Admit a pod and start its containers, showing what was injected."""
        from deviceplugin.testing.kubelet import Failed

        result = await self._kubelet.admit(pod)
        if isinstance(result, Failed):
            raise StepError(f"pod {pod.name}: {result.reason}: {result.message}")
        config = None
        for container in pod.containers:
            config = await self._kubelet.start_container(pod.uid, container.name)
            ids = self._kubelet.held(pod.uid, container.name).get(self._resource, ())
            _held(f"pod {pod.name}, container {container.name}: {', '.join(ids) or 'no device'}")
            for name, value in config.envs:
                _show(f"env {name}={value}")
            for device in config.devices:
                _show(f"node {device.container_path} ({device.permissions})")
            for mount in config.mounts:
                _show(f"mount {mount.host_path} at {mount.container_path}")
            for name in config.cdi_names():
                _show(f"CDI {name}")
        return config

    def _write_config(self, strategies: list[str], **section: object) -> None:
        content = {
            "flags": {"plugin": {"deviceListStrategy": strategies}},
            "mock": {"profile": self._profile, **section},
        }
        self._config.parent.mkdir(exist_ok=True)
        temporary = self._config.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.rename(self._config)

    async def _start_agent(self) -> None:
        flags = {
            "config-file": self._config,
            "vendors": "mock",
            "kubelet-socket": self._kubelet.kubelet_socket,
            "pod-resources-socket": self._kubelet.pod_resources_socket,
            "cdi-dir": self._cdi,
            "run-dir": self._root / "run",
            "http-listen": "",
            "probe-interval": "500ms",
            "health-hold": "0s",
        }
        self._agent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "deviceplugin",
            "serve",
            *(f"--{name}={value}" for name, value in flags.items()),
            stderr=None if self._agent_log else asyncio.subprocess.DEVNULL,
        )

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        assert self._agent is not None
        with contextlib.suppress(TimeoutError):
            await self._kubelet.wait_for(
                lambda: condition() or self._agent.returncode is not None,  # type: ignore[union-attr]
                timeout=10,
            )
        if not condition():
            raise StepError(f"{what}: not within 10 s (see --agent-log)")
