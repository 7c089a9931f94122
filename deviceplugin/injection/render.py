"""Neutral edits become what kubelet and the runtime understand. Pure.

The exact effects of each strategy are those of kubelet-deviceplugin.md 4.4. With a CDI strategy,
everything that limits a container travels in a specification of its own, one device an
allocation: the runtime applies CDI last, so the pod's own environment cannot override it
(cdi.md 3), while the environment of an Allocate response loses against the pod's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from deviceplugin.cdi import CDIError, annotate, combine
from deviceplugin.cdi.annotations import MAX_NAME
from deviceplugin.cdi.model import ContainerEdits as CDIEdits
from deviceplugin.cdi.model import Device, DeviceNode, Mount, Spec
from deviceplugin.vendor import ContainerEdits, Exposure, Grant, HostDirectory

T = TypeVar("T")

ENVVAR, VOLUME_MOUNTS = "envvar", "volume-mounts"
CDI_ANNOTATIONS, CDI_CRI = "cdi-annotations", "cdi-cri"
STRATEGIES = (ENVVAR, VOLUME_MOUNTS, CDI_ANNOTATIONS, CDI_CRI)

CDI_VENDOR = "k8s.deviceplugin.dev"
"""Vendor part of the kinds that hold our allocations: nobody else's, so that no file of nvidia-ctk
or of another plugin can conflict with one of ours (cdi.md 6.2)."""


class CannotInjectError(ValueError):
    """The edits need something that the chosen strategies cannot carry."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """The operator's choice of how devices are handed over."""

    names: tuple[str, ...] = (ENVVAR,)
    device_ids: str = "uuid"
    pass_device_specs: bool = False
    annotation_prefix: str = "cdi.k8s.io/"

    @property
    def cdi(self) -> bool:
        """Whether CDI carries anything."""
        return CDI_ANNOTATIONS in self.names or CDI_CRI in self.names

    @property
    def direct(self) -> bool:
        """Whether the Allocate response itself carries devices."""
        return ENVVAR in self.names or VOLUME_MOUNTS in self.names


@dataclass(frozen=True, slots=True)
class Injection:
    """What goes into one ContainerAllocateResponse, and what must exist on the node before."""

    envs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cdi_names: tuple[str, ...] = ()
    spec: Spec | None = None
    host_directories: tuple[HostDirectory, ...] = ()


def allocation_kind(vendor: str) -> str:
    """The CDI kind of a vendor's allocations."""
    return f"{CDI_VENDOR}/{vendor}"


def render(
    vendor: str,
    allocation: str,
    grants: Sequence[Grant],
    edits: ContainerEdits,
    exposure: Exposure | None,
    strategy: Strategy,
) -> Injection:
    """The injection of one allocation, complete at the time of Allocate.

    Raises `CannotInjectError` where no CDI strategy is chosen and the edits have hooks or groups,
    which an Allocate response cannot carry.
    """
    ids = exposed_ids(grants, strategy)
    names: list[str] = []
    spec = None
    if strategy.cdi:
        if exposure:
            names = [*(f"{exposure.cdi_kind}={i}" for i in ids), *exposure.cdi_names]
        spec = allocation_spec(vendor, allocation, _limits(edits, nodes=exposure is None))
        if spec:
            names.append(f"{spec.kind}={allocation}")
    elif edits.hooks or edits.additional_gids:
        raise CannotInjectError(
            f"{vendor} needs OCI hooks or groups in the container, which only CDI carries: "
            f"add {CDI_CRI} or {CDI_ANNOTATIONS} to deviceListStrategy"
        )
    return _response(vendor, allocation, ids, names, spec, edits, exposure, strategy)


def deferred(vendor: str, allocation: str, strategy: Strategy) -> Injection:
    """The injection of an allocation whose grant is known only when the container starts: the
    name of a CDI device that is not written yet, so that without it nothing can start.
    """
    names = [f"{allocation_kind(vendor)}={allocation}"]
    return _response(vendor, allocation, (), names, None, ContainerEdits(), None, strategy)


def deferred_spec(
    vendor: str,
    allocation: str,
    grants: Sequence[Grant],
    edits: ContainerEdits,
    exposure: Exposure | None,
    inventory: Sequence[Spec],
    strategy: Strategy,
) -> Spec:
    """The specification behind that name: the devices' edits from the inventory and the limits.

    Raises `CannotInjectError` when the inventory lacks a device or nothing is left to edit.
    """
    parts: list[CDIEdits] = []
    if exposure:
        names = [f"{exposure.cdi_kind}={i}" for i in exposed_ids(grants, strategy)]
        parts.extend(_named((*names, *exposure.cdi_names), inventory))
    parts.append(_limits(edits, nodes=exposure is None))
    spec = allocation_spec(vendor, allocation, merged(parts))
    if spec is None:
        raise CannotInjectError(f"{vendor} has nothing to inject for allocation {allocation}")
    return spec


def allocation_spec(vendor: str, allocation: str, edits: CDIEdits) -> Spec | None:
    """The specification with the one device of an allocation; None when it would be empty."""
    if not edits:
        return None
    return Spec(allocation_kind(vendor), (Device(allocation, edits),))


def exposed_ids(grants: Sequence[Grant], strategy: Strategy) -> tuple[str, ...]:
    """The ids that a runtime is told, by uuid or index, each device once."""
    by_index = strategy.device_ids == "index"
    return tuple(dict.fromkeys(g.device.index if by_index else g.device.uuid for g in grants))


def merged(parts: Iterable[CDIEdits]) -> CDIEdits:
    """Edits in a row; what stands twice is kept once, a later variable replaces an earlier one."""
    edits = combine(parts)
    return replace(
        edits,
        device_nodes=_once(edits.device_nodes),
        net_devices=_once(edits.net_devices),
        hooks=_once(edits.hooks),
        mounts=_once(edits.mounts),
        additional_gids=_once(edits.additional_gids),
    )


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


def _named(names: Sequence[str], inventory: Sequence[Spec]) -> list[CDIEdits]:
    """The edits of these devices; those of their specifications first, once each."""
    known = {
        f"{spec.kind}={device.name}": (spec, device)
        for spec in inventory
        for device in spec.devices
    }
    missing = [name for name in names if name not in known]
    if missing:
        raise CannotInjectError(f"the CDI inventory has no device {', '.join(missing)}")
    found = [known[name] for name in names]
    common = list({spec.kind: spec.container_edits for spec, _ in found}.values())
    return [*common, *(device.container_edits for _, device in found)]


def _limits(edits: ContainerEdits, *, nodes: bool) -> CDIEdits:
    """What the allocation's own specification holds; nodes only where no inventory has them."""
    return CDIEdits(
        env=tuple(f"{name}={value}" for name, value in sorted(edits.env.items())),
        device_nodes=edits.device_nodes if nodes else (),
        hooks=edits.hooks,
        mounts=edits.mounts,
        additional_gids=edits.additional_gids,
    )


def _response(
    vendor: str,
    allocation: str,
    ids: Sequence[str],
    names: Sequence[str],
    spec: Spec | None,
    edits: ContainerEdits,
    exposure: Exposure | None,
    strategy: Strategy,
) -> Injection:
    envs: dict[str, str] = dict(exposure.env_always) if exposure else {}
    mounts: list[Mount] = []
    devices: tuple[DeviceNode, ...] = ()
    if not strategy.cdi:
        envs.update(edits.env)
        mounts.extend(edits.mounts)
    if strategy.direct and exposure:
        listed_envs, listed_mounts = _listed(ids, exposure, strategy)
        envs.update(listed_envs)
        mounts.extend(listed_mounts)
    if strategy.direct and (strategy.pass_device_specs or not (exposure or strategy.cdi)):
        devices = edits.device_nodes
    annotations = dict(edits.annotations)
    if names and CDI_ANNOTATIONS in strategy.names:
        plugin = exposure.annotation_plugin if exposure else f"{vendor}-device-plugin"
        plugin = plugin[: MAX_NAME - len(allocation) - 1].rstrip("-._")
        try:
            annotations = annotate(
                annotations, plugin, allocation, names, prefix=strategy.annotation_prefix
            )
        except CDIError as error:
            raise CannotInjectError(f"{vendor}: {error}") from None
    return Injection(
        envs=MappingProxyType(envs),
        mounts=tuple(mounts),
        devices=devices,
        annotations=MappingProxyType(annotations),
        cdi_names=tuple(names) if CDI_CRI in strategy.names else (),
        spec=spec,
        host_directories=edits.host_directories,
    )


def _listed(
    ids: Sequence[str], exposure: Exposure, strategy: Strategy
) -> tuple[dict[str, str], list[Mount]]:
    """The list of ids as a variable, as mounts, or as mounts with the variable pointing there."""
    envs: dict[str, str] = {}
    mounts: list[Mount] = []
    if ENVVAR in strategy.names:
        envs = {exposure.env: ",".join(ids), **exposure.list_env}
    if VOLUME_MOUNTS in strategy.names:
        envs[exposure.env] = exposure.mount_root
        mounts = [
            Mount("/dev/null", f"{exposure.mount_root}/{name}")
            for name in (*ids, *exposure.mount_names)
        ]
    return envs, mounts
