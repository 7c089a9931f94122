"""The pods of a node and their containers that run; both outlive a run of kubelet."""

from __future__ import annotations

from deviceplugin.testing.kubelet.pods import Container, Pod, PodStatus

_ENDED = ("Succeeded", "Failed")


class PodBook:
    """What the API and the runtime know: `pods` by uid in the order of creation, and `running` as
    pairs of pod uid and container name.
    """

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.running: set[tuple[str, str]] = set()
        self._statuses: dict[str, PodStatus] = {}

    def status(self, uid: str) -> PodStatus:
        """Phase, reason and message. Raises `KeyError`."""
        return self._statuses[uid]

    def active(self) -> set[str]:
        """The uids of pods that have not ended."""
        return {uid for uid, status in self._statuses.items() if status.phase not in _ENDED}

    def active_pods(self) -> list[Pod]:
        """The pods that have not ended."""
        active = self.active()
        return [pod for uid, pod in self.pods.items() if uid in active]

    def named(self, namespace: str, name: str) -> Pod | None:
        """Any pod of that name, the newest first."""
        for pod in reversed(self.pods.values()):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        return None

    def enter(self, pod: Pod) -> None:
        """A pod that is to be admitted, perhaps again: then its containers may be running."""
        self.pods[pod.uid] = pod
        runs = any(owner == pod.uid for owner, _ in self.running)
        self._statuses[pod.uid] = PodStatus("Running" if runs else "Pending")

    def fail(self, pod: Pod, reason: str, message: str) -> None:
        """A pod is refused for good; containers of it that run are ended."""
        self._statuses[pod.uid] = PodStatus("Failed", reason, message)
        self._end_containers(pod.uid)

    def finish(self, uid: str) -> None:
        """A pod ended well."""
        self._statuses[uid] = PodStatus("Succeeded")
        self._end_containers(uid)

    def delete(self, uid: str) -> None:
        """A pod is gone from the API. Raises `KeyError`."""
        del self.pods[uid], self._statuses[uid]
        self._end_containers(uid)

    def start(self, pod: Pod, container: Container) -> None:
        """A container runs; ordinary init containers before it have ended. A pod that has ended
        stays ended, though a start may have been under way.
        """
        if pod.uid not in self.active():
            return
        ordered = pod.ordered()
        for earlier in ordered[: ordered.index(container)]:
            if earlier.init and not earlier.restartable:
                self.running.discard((pod.uid, earlier.name))
        self.running.add((pod.uid, container.name))
        self._statuses[pod.uid] = PodStatus("Running")

    def _end_containers(self, uid: str) -> None:
        self.running = {item for item in self.running if item[0] != uid}
