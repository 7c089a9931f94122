"""The contract between the framework and a vendor backend; all that a vendor imports of us.

A vendor is one `Vendor` descriptor behind an entry point of the group ``deviceplugin.vendors``.
It names its *node half* lazily as ``module:attribute``; the attribute is called with the
`VendorSettings` of this node and returns a `NodeBackend`. The same class is used in two places:

- in a child process of its own, the *probe*, where `discover` (and `watch_health`, `partition`)
  may load driver libraries, block and even crash without harm to anything else;
- in the agent, where only the pure methods are called: `edits` and the optional ones below.

Everything beyond `discover` and `edits` is optional *by presence*: a backend that has the method
offers the capability, and the framework has a default for one that has not. The values here are
frozen; a backend returns new ones instead of changing old ones.

Units are in the names: ``_mib`` is MiB (2**20 bytes), ``_percent`` is percent of one device.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from deviceplugin.api.hami.keys import MUTEX_LOCK, Registration, VendorKeys
from deviceplugin.api.hami.register import NodeDevice
from deviceplugin.cdi.model import DeviceNode, Hook, Mount, Spec

__all__ = [
    "MUTEX_LOCK",
    "AnswerReader",
    "ContainerEdits",
    "DeviceNode",
    "DriverError",
    "Examiner",
    "Exposure",
    "Grant",
    "HealthEvent",
    "HealthWatcher",
    "Hook",
    "HostDirectory",
    "InventoryWriter",
    "Mount",
    "NodeAnnotator",
    "NodeBackend",
    "NodeDevice",
    "Owner",
    "Partitioner",
    "PhysicalDevice",
    "Planner",
    "PreStarter",
    "Preferrer",
    "Registrar",
    "Registration",
    "Replicas",
    "ResourcePlan",
    "RuntimeExposed",
    "Safeguarded",
    "Sharing",
    "Slotted",
    "Snapshot",
    "Spec",
    "Split",
    "Tidier",
    "Usage",
    "UsageReader",
    "Vendor",
    "VendorKeys",
    "VendorSettings",
]


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


class DriverError(Exception):
    """What `discover` raises when the driver gives no usable answer.

    The text is shown to people as it is: it names the call, the reason and the remedy. `absent`
    says that there is no driver on this node, which is a state and not a fault.
    """

    def __init__(self, text: str, *, absent: bool = False) -> None:
        super().__init__(text)
        self.absent = absent


# --- what a node has ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PhysicalDevice:
    """One accelerator, or one hardware partition of one, as the driver describes it.

    `uuid` is unique on the node and stable over restarts. `index` is the vendor's own order
    ("0", or "0:1" for partition 1 of card 0). `memory_mib` is None where the driver cannot tell
    (unified memory). `numa_node` is None when unknown, never negative. `links` maps the uuid of
    another device to a score that is higher the better the two are connected. `device_nodes`
    are paths on the host. `reason` says why an unhealthy device is so.
    """

    uuid: str
    index: str
    model: str
    memory_mib: int | None = None
    cores_percent: int = 100
    numa_node: int | None = None
    links: Mapping[str, int] = field(default_factory=_empty)
    device_nodes: tuple[str, ...] = ()
    healthy: bool = True
    reason: str = ""
    parent_uuid: str = ""
    profile: str = ""
    attributes: Mapping[str, str] = field(default_factory=_empty)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices of one vendor on this node at one moment.

    `attributes` are facts of the whole driver (its version, for example). `problems` name what
    was left out and why, one sentence each; they are shown, and stop nothing.
    """

    devices: tuple[PhysicalDevice, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=_empty)
    problems: tuple[str, ...] = ()

    def device(self, uuid: str) -> PhysicalDevice | None:
        """The device of that uuid, or None."""
        return next((device for device in self.devices if device.uuid == uuid), None)

    @property
    def by_index(self) -> Sequence[PhysicalDevice]:
        """The devices in the vendor's own order."""
        return sorted(self.devices, key=lambda device: (len(device.index), device.index))


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """A change of health between two snapshots. An empty `uuid` speaks of every device."""

    uuid: str
    healthy: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy a device is at a moment, by whomever; None where the driver does not say.

    Memory in MiB, utilisation of the cores and of the memory controller in percent, 0 to 100.
    """

    uuid: str
    used_mib: float | None = None
    utilisation_percent: float | None = None
    memory_controller_percent: float | None = None


# --- how it is divided -------------------------------------------------------------------------


class Sharing(enum.StrEnum):
    """How several containers use one device, and so what holds them apart."""

    EXCLUSIVE = "exclusive"
    """One container a device; the hardware or the kernel is the limit."""
    LIMITED = "limited"
    """Shares of memory and cores that the vendor enforces in the container."""
    TIME_SLICING = "time-slicing"
    """Turns on the whole device: no limit, no isolation, by the operator's word."""
    MPS = "mps"
    """NVIDIA's multi-process service: limits that co-operating processes keep."""

    @property
    def cooperative(self) -> bool:
        """Whether limits hold only as long as the processes that they limit co-operate."""
        return self is Sharing.MPS


@dataclass(frozen=True, slots=True)
class Split:
    """How each physical device of a resource becomes virtual devices.

    `count` virtual devices a device, named ``<uuid><separator><i>``, i from 0; an empty separator
    (count 1 only) leaves the uuid as the id. `max_request` refuses a container that asks for more
    ids of the resource than this; 0 means no limit. Scalings above 1 overcommit. `together` says
    that several ids of a container only make sense on as few devices as can be.
    """

    count: int = 1
    separator: str = ""
    sharing: Sharing = Sharing.EXCLUSIVE
    memory_scaling: float = 1.0
    cores_scaling: float = 1.0
    max_request: int = 0
    together: bool = False


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """One extended resource: its name, the uuids of its devices in order, and their split.

    `keys` are the annotations by which schedulers hand it out (`api.hami.keys`); None for a
    resource that kubelet alone hands out. `mode` is the operating mode that they are told. `names`
    are the uuids of devices by what schedulers call them, where that is not their uuid: those that
    count a node's devices off its capacity give them names of their own. `places` says that
    schedulers choose hard partitions on the devices (`Grant.slot`) instead of amounts; a scheduler
    that does so anywhere else is refused.
    """

    resource: str
    devices: tuple[str, ...]
    split: Split = Split()
    keys: VendorKeys | None = None
    mode: str = ""
    names: Mapping[str, str] = field(default_factory=_empty, hash=False)
    places: bool = False


# --- what a container gets ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """What one container holds of one physical device: `shares` of `of` equal parts.

    `memory_mib` and `cores_percent` are the limits that follow, None where there is no limit to
    enforce (an exclusive device, time-slicing, unknown memory).
    """

    device: PhysicalDevice
    shares: int = 1
    of: int = 1
    sharing: Sharing = Sharing.EXCLUSIVE
    memory_mib: int | None = None
    cores_percent: int | None = None
    memory_scaling: float = 1.0
    slot: str = ""
    """Which hardware partition of the device a scheduler means, ``geometry-position``."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the device is held back."""
        total, memory, cores = self.device.memory_mib, self.memory_mib, self.cores_percent
        all_memory = memory is None or (total is not None and memory >= total)
        return all_memory and (cores is None or cores >= 100)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a grant. `allocation_id` is always known and is a legal file and CDI name;
    pod and container are empty where kubelet has not said who asks.

    `scheduled` says that a scheduler decided on the grant; then `environment` are the variables
    that the container's own specification lists, empty where the value comes from elsewhere, and
    `pod_annotations` the pod's annotations, all written by strangers.
    """

    resource: str
    allocation_id: str
    pod_uid: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    container: str = ""
    scheduled: bool = False
    environment: Mapping[str, str] = field(default_factory=_empty, hash=False)
    pod_annotations: Mapping[str, str] = field(default_factory=_empty, hash=False)
    apart: tuple[str, ...] = ()
    """The pod's containers that never run while this one does: an ordinary init container is over
    before the others start. Schedulers give such containers the same room. Empty where kubelet has
    not said who asks.
    """


@dataclass(frozen=True, slots=True)
class HostDirectory:
    """A directory on the host that must exist before the container starts; `mode` as in chmod.

    One that is `private` belongs to one allocation: what an earlier holder of the same ids left in
    it is removed.
    """

    path: str
    mode: int = 0o755
    private: bool = False


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """What a grant changes in its container, independent of how it gets there.

    `device_nodes` reach the devices; everything else limits or equips the container. Host paths
    are paths on the host. The framework renders this to every device list strategy.
    """

    env: Mapping[str, str] = field(default_factory=_empty)
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=_empty)
    additional_gids: tuple[int, ...] = ()
    host_directories: tuple[HostDirectory, ...] = ()


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a vendor's own container runtime is told which devices a container may see.

    With it, the strategies ``envvar`` and ``volume-mounts`` hand over a list of ids, device nodes
    travel only when the operator asks for them (passDeviceSpecs), and the CDI strategies name the
    devices of `cdi_kind` in the inventory that `cdi_specs` describes. Without it, device nodes
    and environment travel as they are.
    Source: kubelet-deviceplugin.md 4.4.
    """

    env: str
    """Variable that lists the ids, joined by commas."""
    mount_root: str
    """Where the strategy volume-mounts mounts one file an id."""
    cdi_kind: str
    """``vendor/class`` of the inventory's devices."""
    annotation_plugin: str
    """First part of the key under the CDI annotation prefix."""
    cdi_names: tuple[str, ...] = ()
    """Qualified names that every allocation gets beside its devices."""
    list_env: Mapping[str, str] = field(default_factory=_empty)
    """Variables that go with the strategy envvar only."""
    mount_names: tuple[str, ...] = ()
    """Files below `mount_root` that the strategy volume-mounts adds beside the ids."""
    env_always: Mapping[str, str] = field(default_factory=_empty)
    """Variables that go with every strategy."""


# --- who provides it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replicas:
    """What the operator's ``sharing`` says of one resource (kubelet-deviceplugin.md 4.1)."""

    count: int
    sharing: Sharing
    rename: str = ""
    fail_requests_greater_than_one: bool = False


@dataclass(frozen=True, slots=True)
class VendorSettings:
    """All that a backend may know of its node and of the operator's wishes.

    `host_root` is where the host's root file system is seen by this process ("/" outside a
    container); every host path is looked up below it. `section` is the vendor's own part of the
    configuration file, `options` the effective command-line options by their file key
    (``migStrategy``, ``nvidiaDriverRoot``, ...), `sharing` the operator's replicas by resource.
    `enforce_isolation` is False only where the operator wrote ``isolation: none``.
    Everything is plain data, so that it can be handed to the probe as JSON.
    """

    node_name: str = ""
    host_root: str = "/"
    enforce_isolation: bool = True
    section: Mapping[str, Any] = field(default_factory=_empty)
    options: Mapping[str, Any] = field(default_factory=_empty)
    sharing: Mapping[str, Replicas] = field(default_factory=_empty)


@dataclass(frozen=True, slots=True)
class Vendor:
    """The descriptor behind the entry point: cheap to import, names everything else.

    `node` is ``module:attribute``, called with `VendorSettings`, returns a `NodeBackend`.
    `scheduling` is too, a `vendor.scheduling.Decider`; empty where schedulers know the vendor by
    no annotation. `resource` is the extended resource of a vendor that plans none itself. `section`
    is its key of the configuration file, the name where empty; `shared_sections` are keys that
    programs beside ours read too, handed over below that section under their own names (``vnpus``,
    ``iluvatars``). `presence` are glob
    patterns, relative to the host's root, of which one must match for the vendor to count as
    present; without any the vendor serves only where the operator names it. `library_path` are
    directories below the host's root, written with a ``/`` in front, that the probe's dynamic
    loader searches in addition.
    `profile` is ``package:file``, a node of this vendor as ``deviceplugin record`` writes it: it
    stands for hardware where there is none, in simulations and in the conformance checks.
    """

    name: str
    node: str
    resource: str
    presence: tuple[str, ...] = ()
    library_path: tuple[str, ...] = ()
    scheduling: str = ""
    section: str = ""
    shared_sections: tuple[str, ...] = ()
    profile: str = ""


@runtime_checkable
class NodeBackend(Protocol):
    """The node half of a vendor: the two things that every vendor must say."""

    def discover(self) -> Snapshot:
        """The devices of this node. Runs in the probe; may block, is killed at its deadline.

        Raises `DriverError` when the driver gives no usable answer.
        """

    def edits(self, grants: Sequence[Grant], owner: Owner) -> ContainerEdits:
        """What a container with these grants needs. Pure: equal arguments, equal answer.

        `grants` are ordered by the device's position in the snapshot, one a device. Raises
        `ValueError` for grants that cannot be served, with a text for the pod's status.
        """


@runtime_checkable
class Planner(Protocol):
    """Offers several resources, or a split that depends on the devices (MIG, sharing)."""

    def plan(self, snapshot: Snapshot) -> Sequence[ResourcePlan]:
        """The resources of this node. Pure. Raises `ValueError` when the devices and the
        configuration contradict each other.
        """


@runtime_checkable
class Registrar(Protocol):
    """Schedulers know more of the devices than count, memory, cores, NUMA node and health."""

    def registered(self, plan: ResourcePlan, snapshot: Snapshot) -> Sequence[NodeDevice]:
        """The devices of a resource as its schedulers read them. Pure."""


@runtime_checkable
class NodeAnnotator(Protocol):
    """The vendor's schedulers read more of the node, or in another form, than HAMi's lists."""

    def node_annotations(self, plan: ResourcePlan, snapshot: Snapshot) -> Mapping[str, str]:
        """Annotations of the node, of a resource's keys only (`VendorKeys.register` where its form
        is the vendor's own, and `VendorKeys.node_others`). Pure.
        """


@runtime_checkable
class RuntimeExposed(Protocol):
    """The vendor's container runtime takes a list of ids."""

    def exposure(self) -> Exposure:
        """How that list is handed over. Pure."""


@runtime_checkable
class InventoryWriter(Protocol):
    """Devices have CDI names of their own, which exist before any allocation."""

    def cdi_specs(self, snapshot: Snapshot) -> Sequence[Spec]:
        """One specification a kind. Reads files of the host (driver libraries), loads none."""


@runtime_checkable
class HealthWatcher(Protocol):
    """The driver reports events between snapshots."""

    def watch_health(self, snapshot: Snapshot) -> Iterator[HealthEvent]:
        """Blocks for events of these devices; runs in a thread of the probe, for ever."""


@runtime_checkable
class UsageReader(Protocol):
    """The driver says how busy whole devices are; what it says is shown and decides nothing."""

    def usage(self, snapshot: Snapshot) -> Sequence[Usage]:
        """How busy these devices are now, hard partitions too; leave out what the driver does not
        say. Runs in a thread of the probe, beside `discover`. Raises `DriverError`; that costs this
        reading and nothing else.
        """


@runtime_checkable
class Preferrer(Protocol):
    """The vendor knows better than links and NUMA which devices go together."""

    def prefer(
        self,
        available: Sequence[PhysicalDevice],
        must_include: Sequence[PhysicalDevice],
        size: int,
    ) -> Sequence[str]:
        """The uuids of `size` devices, `must_include` among them. Pure."""


@runtime_checkable
class AnswerReader(Protocol):
    """Containers are told of their devices by number, and by neither uuid nor device node, which
    the framework recognises by itself.
    """

    def handed(
        self, answer: ContainerEdits, devices: Sequence[PhysicalDevice]
    ) -> Collection[str] | None:
        """The uuids of those of the resource's `devices` that an answer to Allocate hands over,
        whichever plugin of this vendor's cards gave it; None where it does not say so in the
        vendor's way. Pure. What kubelet keeps of another plugin's answer proves whose devices a
        container has. Raises `ValueError` for an answer that hands over anything else.
        """


@runtime_checkable
class Safeguarded(Protocol):
    """Something outside the devices must be in place: a daemon, a library in the host."""

    def impediment(self, plan: ResourcePlan) -> str:
        """Why no container can be given this resource now; empty when nothing is in the way.

        Cheap (a few stat calls): asked before every Allocate, and before every start that the agent
        is asked about. While there is one, every virtual device of the resource is unhealthy for
        that reason.
        """


@runtime_checkable
class PreStarter(Protocol):
    """Something must happen on the node right before each start of a container."""

    def pre_start(self, grants: Sequence[Grant], owner: Owner) -> None:
        """Raises `ValueError` to refuse the start; kubelet tries again."""


@runtime_checkable
class Partitioner(Protocol):
    """Hard partitions are made and removed on demand. Runs in the probe."""

    def partition(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make what `request` describes and answer how it is called. Raises `DriverError`."""

    def release(self, request: Mapping[str, Any]) -> None:
        """Remove it again; to remove what is not there is no error. Raises `DriverError`."""


@runtime_checkable
class Tidier(Protocol):
    """What `Partitioner.partition` made outlives its container unless somebody removes it. Runs in
    the probe.
    """

    def tidy(self, held: Sequence[Mapping[str, str]]) -> Sequence[str]:
        """Remove what was made for containers that hold nothing any more; what was removed, a
        sentence each.

        `held` are all that may still need theirs: ``allocation``, ``pod_uid``, ``namespace``,
        ``pod`` and ``container``, and ``devices``, the uuids of the cards that it was given with
        blanks between them, all of them empty where unknown. Whoever asked for a partition in the
        last minutes is among them. Raises `DriverError`.
        """


@runtime_checkable
class Examiner(Protocol):
    """A vendor of hard partitions that cannot make just any set of them."""

    def examine(self, grants: Sequence[Grant], owner: Owner) -> None:
        """Asked before the first partition for these grants is made. Pure. Raises `ValueError` for
        grants that cannot be served together, with a text for the pod's status.
        """


@runtime_checkable
class Slotted(Protocol):
    """Grants become hard partitions on the node when a container needs them, at the place on the
    card that a scheduler chose (`Grant.slot`) or at any: `slot_request` in the agent,
    `Partitioner.partition` in the probe, `slot_granted` in the agent, and then `NodeBackend.edits`
    with the grant that is left. A container that starts again asks again, so the same request must
    find the same partition.
    """

    def slot_request(self, grant: Grant, owner: Owner) -> Mapping[str, Any] | None:
        """What `partition` needs to make the partition that is granted, as plain JSON data; None
        for a grant that needs none. Pure.

        The framework adds the key ``in_use``: who else on this node holds partitions of the same
        card, one ``{"slot": ..., "owner": "namespace/pod/container", "uuid": ...}`` a grant, with
        ``uuid``, the partition that was answered, where it is known. Raises `ValueError` for a
        grant that no partition can honour, with a text for the pod's status.
        """

    def slot_granted(self, grant: Grant, answer: Mapping[str, Any]) -> Grant:
        """The grant of the partition that `partition` answered, in place of the card's. Pure.

        Raises `ValueError` for an answer that does not describe one.
        """


def with_health(device: PhysicalDevice, healthy: bool, reason: str = "") -> PhysicalDevice:
    """The same device with another health."""
    return replace(device, healthy=healthy, reason="" if healthy else reason)
