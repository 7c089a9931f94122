"""What kubelet tolerates and a plugin should not do (kubelet-deviceplugin.md 3.4). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from deviceplugin import cdi
from deviceplugin.api.kubelet.deviceplugin_v1beta1 import deviceplugin_pb2 as pb

MAX_SOCKET_PATH = 107
MAX_ID = 63


def of_registration(
    request: pb.RegisterRequest, options: pb.DevicePluginOptions, directory: str
) -> Iterator[str]:
    """Findings of a Register request and the options fetched from the plugin."""
    if request.options != options:
        yield "RegisterRequest.options differ from GetDevicePluginOptions"
    if not request.endpoint or "/" in request.endpoint:
        yield f"endpoint {request.endpoint!r} is not a plain file name"
    if len(f"{directory}/{request.endpoint}".encode()) > MAX_SOCKET_PATH:
        yield f"the socket path is longer than {MAX_SOCKET_PATH} bytes"


def of_list(message: pb.ListAndWatchResponse, numa_nodes: int) -> Iterator[str]:
    """Findings of one ListAndWatch message."""
    seen: set[str] = set()
    for device in message.devices:
        if device.health not in ("Healthy", "Unhealthy"):
            yield f"device {device.ID!r} has the health {device.health!r}"
        if not device.ID:
            yield "a device has no id"
        if len(device.ID) > MAX_ID:
            yield f"device id {device.ID!r} is longer than {MAX_ID} characters"
        if device.ID in seen:
            yield f"device id {device.ID!r} stands twice in one message"
        seen.add(device.ID)
        if device.HasField("topology"):
            if not device.topology.nodes:
                yield f"device {device.ID!r} has a topology without nodes"
            for node in device.topology.nodes:
                if not 0 <= node.ID < numa_nodes:
                    yield f"device {device.ID!r} names NUMA node {node.ID}"


def of_preference(
    request: pb.ContainerPreferredAllocationRequest, answers: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Findings of a GetPreferredAllocation answer."""
    if len(answers) != 1:
        yield f"GetPreferredAllocation answered {len(answers)} containers for 1"
    for ids in answers[:1]:
        if len(ids) != request.allocation_size:
            yield f"GetPreferredAllocation gave {len(ids)} ids for {request.allocation_size}"
        if len(set(ids)) != len(ids):
            yield "GetPreferredAllocation gave an id twice"
        if extra := set(ids) - set(request.available_deviceIDs):
            yield f"GetPreferredAllocation gave ids that are not available: {sorted(extra)}"
        if missing := set(request.must_include_deviceIDs) - set(ids):
            yield f"GetPreferredAllocation left out ids that must be in: {sorted(missing)}"


def of_allocation(response: pb.AllocateResponse) -> Iterator[str]:
    """Findings of an Allocate response to a request for one container."""
    if len(response.container_responses) != 1:
        yield f"Allocate answered {len(response.container_responses)} containers for 1"
    for container in response.container_responses[:1]:
        yield from _of_container(container)


def _of_container(response: pb.ContainerAllocateResponse) -> Iterator[str]:
    for device in response.devices:
        if not device.permissions or set(device.permissions) - set("rwm"):
            yield f"device {device.container_path!r} has the permissions {device.permissions!r}"
        yield from _absolute("device", (device.host_path, device.container_path))
    for mount in response.mounts:
        yield from _absolute("mount", (mount.host_path, mount.container_path))
    for name in response.envs:
        if not name or "=" in name:
            yield f"env name {name!r} is empty or contains ="
    for device_name in response.cdi_devices:
        if not cdi.is_qualified_name(device_name.name):
            yield f"CDI name {device_name.name!r} is not fully qualified"
    try:
        cdi.parse_annotations(response.annotations)
    except cdi.CDIError as error:
        yield f"a CDI annotation does not parse: {error}"


def _absolute(kind: str, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if not path.startswith("/"):
            yield f"{kind} path {path!r} is empty or relative"
