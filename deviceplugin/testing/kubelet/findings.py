"""What kubelet tolerates and a plugin should not do (kubelet-deviceplugin.md 3.4). Pure.

`Finding.rule` is the number that the rule has there; 0 stands for kubelet's own checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from deviceplugin import cdi
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb

MAX_SOCKET_PATH = 107
MAX_ID = 63
FIRST_LIST_SECONDS = 5.0
SLOW_SECONDS, HUNG_SECONDS = 5.0, 30.0
BURST, BURST_SECONDS = 10, 1.0

CHECKPOINT = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of a rule."""

    rule: int
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def of_options(request: pb.RegisterRequest, options: pb.DevicePluginOptions) -> Iterator[Finding]:
    """Rule 1: what Register says and what GetDevicePluginOptions says."""
    if request.options != options:
        yield Finding(1, "RegisterRequest.options differ from GetDevicePluginOptions")


def of_endpoint(endpoint: str, directory: str) -> Iterator[Finding]:
    """Rule 2: the endpoint of a Register request."""
    if not endpoint or "/" in endpoint:
        yield Finding(2, f"endpoint {endpoint!r} is not a plain file name")
    if len(f"{directory}/{endpoint}".encode()) > MAX_SOCKET_PATH:
        yield Finding(2, f"the socket path is longer than {MAX_SOCKET_PATH} bytes")


def of_takeover(resource: str) -> Iterator[Finding]:
    """Rule 3, for a registration while the stream of an older one is open."""
    yield Finding(3, f"{resource} registered while the old stream is open")


def of_list(message: pb.ListAndWatchResponse, numa_nodes: int) -> Iterator[Finding]:
    """Rule 4: one ListAndWatch message."""
    seen: set[str] = set()
    for device in message.devices:
        if device.health not in ("Healthy", "Unhealthy"):
            yield Finding(4, f"device {device.ID!r} has the health {device.health!r}")
        if not device.ID:
            yield Finding(4, "a device has no id")
        if len(device.ID) > MAX_ID:
            yield Finding(4, f"device id {device.ID!r} is longer than {MAX_ID} characters")
        if device.ID in seen:
            yield Finding(4, f"device id {device.ID!r} stands twice in one message")
        seen.add(device.ID)
        if device.HasField("topology"):
            if not device.topology.nodes:
                yield Finding(4, f"device {device.ID!r} has a topology without nodes")
            for node in device.topology.nodes:
                if not 0 <= node.ID < numa_nodes:
                    yield Finding(4, f"device {device.ID!r} names NUMA node {node.ID}")


class ListPace:
    """Rule 5: when the lists of one stream arrive. `opened` is the time of the call, in seconds."""

    def __init__(self, opened: float) -> None:
        self._opened = opened
        self._same: deque[float] = deque(maxlen=BURST + 1)
        self._last: bytes | None = None

    def of_message(self, message: pb.ListAndWatchResponse, now: float) -> Iterator[Finding]:
        """Findings of a message that arrives now."""
        if self._last is None and now - self._opened > FIRST_LIST_SECONDS:
            yield Finding(5, f"the first list came {now - self._opened:.1f} s after ListAndWatch")
        ordered = sorted(message.devices, key=lambda device: device.ID)
        content = pb.ListAndWatchResponse(devices=ordered).SerializeToString()
        if content != self._last:
            self._same.clear()
        self._last = content
        self._same.append(now)
        if len(self._same) > BURST and now - self._same[0] <= BURST_SECONDS:
            self._same.clear()
            yield Finding(5, f"more than {BURST} lists of one content within {BURST_SECONDS:g} s")


def of_preference(
    request: pb.ContainerPreferredAllocationRequest, answers: Sequence[Sequence[str]]
) -> Iterator[Finding]:
    """Rules 6 and 7: a GetPreferredAllocation answer."""
    if len(answers) != 1:
        yield Finding(6, f"GetPreferredAllocation answered {len(answers)} containers for 1")
    for ids in answers[:1]:
        if len(ids) != request.allocation_size:
            yield Finding(
                7, f"GetPreferredAllocation gave {len(ids)} ids for {request.allocation_size}"
            )
        if len(set(ids)) != len(ids):
            yield Finding(7, "GetPreferredAllocation gave an id twice")
        if extra := set(ids) - set(request.available_deviceIDs):
            yield Finding(
                7, f"GetPreferredAllocation gave ids that are not available: {sorted(extra)}"
            )
        if missing := set(request.must_include_deviceIDs) - set(ids):
            yield Finding(
                7, f"GetPreferredAllocation left out ids that must be in: {sorted(missing)}"
            )


def of_allocation(
    request: pb.AllocateRequest,
    response: pb.AllocateResponse,
    listed: Set[str],
    healthy: Set[str],
) -> Iterator[Finding]:
    """Rules 6, 8, 9 and 12: a successful Allocate, and the list that stood when it was asked."""
    asked, given = len(request.container_requests), len(response.container_responses)
    if asked != given:
        yield Finding(6, f"Allocate answered {given} containers for {asked}")
    for container in response.container_responses:
        yield from _of_container(container)
    for identity in sorted({i for c in request.container_requests for i in c.devices_ids}):
        if identity not in listed:
            yield Finding(12, f"Allocate took {identity!r}, which is not in the list")
        elif identity not in healthy:
            yield Finding(12, f"Allocate took {identity!r}, which is unhealthy")


def _of_container(response: pb.ContainerAllocateResponse) -> Iterator[Finding]:
    for device in response.devices:
        if not device.permissions or set(device.permissions) - set("rwm"):
            yield Finding(
                8, f"device {device.container_path!r} has the permissions {device.permissions!r}"
            )
        yield from _absolute("device", (device.host_path, device.container_path))
    for mount in response.mounts:
        yield from _absolute("mount", (mount.host_path, mount.container_path))
    for name in response.envs:
        if not name or "=" in name:
            yield Finding(9, f"env name {name!r} is empty or contains =")
    for device_name in response.cdi_devices:
        if not cdi.is_qualified_name(device_name.name):
            yield Finding(9, f"CDI name {device_name.name!r} is not fully qualified")
    try:
        cdi.parse_annotations(response.annotations)
    except cdi.CDIError as error:
        yield Finding(9, f"a CDI annotation does not parse: {error}")


def _absolute(kind: str, paths: Iterable[str]) -> Iterator[Finding]:
    for path in paths:
        if not path.startswith("/"):
            yield Finding(8, f"{kind} path {path!r} is empty or relative")


def of_contradiction(kind: str, key: str) -> Finding:
    """Rule 10: two resources of one container disagree."""
    return Finding(10, f"two resources give different values for {kind} {key}")


def of_duration(method: str, seconds: float) -> Iterator[Finding]:
    """Rule 11: how long an Allocate or a PreStartContainer took."""
    if method not in ("Allocate", "PreStartContainer"):
        return
    if seconds > HUNG_SECONDS:
        yield Finding(11, f"{method} took {seconds:.1f} s: failed")
    elif seconds > SLOW_SECONDS:
        yield Finding(11, f"{method} took {seconds:.1f} s: slow")


def of_hang(method: str, limit: float) -> Iterator[Finding]:
    """Rule 11, for a call that was given up."""
    if method in ("Allocate", "PreStartContainer"):
        yield Finding(11, f"{method} did not answer within {limit:g} s")


def of_lists(method: str, before: Set[str], after: Set[str]) -> Iterator[Finding]:
    """Rule 15: a list that replaces another while `method` is in flight."""
    if gone := sorted(before - after):
        yield Finding(15, f"the list lost {gone} during an {method}")
