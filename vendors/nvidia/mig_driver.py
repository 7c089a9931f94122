"""NVML's calls about the MIG partitions of one card, as values of `geometry`.

Every method raises NVML's error. Structures and buffers stay in here.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deviceplugin.vendors.nvidia import mig
from deviceplugin.vendors.nvidia.geometry import Place, Placement, Standing, State

MOST_INSTANCES = 64
"""Room for the answers of NVML; no card has a quarter of this."""

_NAME_SUFFIXES = {
    "NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1": "+me",
    "NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1": "+me",
    "NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX": "+gfx",
    "NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX": "+gfx",
    "NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX": "+gfx",
    "NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX": "+gfx",
    "NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME": "-me",
    "NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME": "-me",
    "NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME": "+me.all",
    "NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME": "+me.all",
}
"""What the name of a profile ends in, for drivers that number profiles and do not name them."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of GPU instance: the driver's number for it, its name, its compute slices, and where
    on the card it may be.
    """

    id: int
    name: str
    slices: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Mode:
    """MIG mode of a card: `now`, and `pending` for after its next reset."""

    now: bool
    pending: bool


class Card:
    """One card that answers by its uuid in an initialised NVML."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml, self.uuid = nvml, uuid
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self._known: list[Profile] | None = None

    # --- MIG mode ---

    def mode(self) -> Mode:
        """Whether MIG mode is on, and whether it will be after the next reset."""
        now, pending = self._nvml.nvmlDeviceGetMigMode(self._handle)
        on = self._nvml.NVML_DEVICE_MIG_ENABLE
        return Mode(now == on, pending == on)

    def enable(self) -> str:
        """Switch MIG mode on; answers what the driver says of it, empty for success. The card may
        be reset by that, so it is looked up again.
        """
        nvml = self._nvml
        status = nvml.nvmlDeviceSetMigMode(self._handle, nvml.NVML_DEVICE_MIG_ENABLE)
        self._handle = nvml.nvmlDeviceGetHandleByUUID(self.uuid)
        return "" if status == nvml.NVML_SUCCESS else str(nvml.NVMLError(status))

    def pids(self) -> tuple[int, ...]:
        """The processes that use the card."""
        return self._pids(self._handle)

    # --- what there is ---

    def profiles(self) -> Mapping[str, Profile]:
        """The profiles of the card by name; the first where drivers call two the same."""
        return {profile.name: profile for profile in reversed(self._kinds())}

    def standing(self) -> tuple[Standing, ...]:
        """The GPU instances that exist, from the lowest slice up."""
        devices = self._mig_devices()
        call, kind = "nvmlDeviceGetGpuInstances", "c_nvmlGpuInstance_t"
        found = [
            self._standing(profile, instance, devices)
            for profile in self._kinds()
            for instance in self._listed(call, self._handle, profile.id, kind)
        ]
        return tuple(sorted(found, key=lambda each: each.place.placement))

    # --- changes ---

    def create(self, place: Place) -> int:
        """Make a GPU instance, still bare; answers its number."""
        nvml = self._nvml
        wanted = nvml.c_nvmlGpuInstancePlacement_t(place.placement.start, place.placement.size)
        profile = self.profiles()[place.profile].id
        instance = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(
            self._handle, profile, ctypes.byref(wanted)
        )
        return int(nvml.nvmlGpuInstanceGetInfo(instance).id)

    def complete(self, number: int, profile: str) -> None:
        """Make the one compute instance that is all of a bare GPU instance of this profile."""
        nvml, slices = self._nvml, self.profiles()[profile].slices
        instance = nvml.nvmlDeviceGetGpuInstanceById(self._handle, number)
        whole = [kind.id for kind in self._compute_kinds(instance) if kind.sliceCount == slices]
        if not whole:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        nvml.nvmlGpuInstanceCreateComputeInstance(instance, whole[0])

    def destroy(self, number: int) -> None:
        """Remove a GPU instance with all that is in it. The driver refuses one that is used."""
        instance = self._nvml.nvmlDeviceGetGpuInstanceById(self._handle, number)
        for _, compute in list(self._compute_instances(instance)):
            self._nvml.nvmlComputeInstanceDestroy(compute)
        self._nvml.nvmlGpuInstanceDestroy(instance)

    # --- parts ---

    def _kinds(self) -> list[Profile]:
        """The profiles in the driver's order, asked for once."""
        if self._known is None:
            self._known = []
            for number in range(self._nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
                with self._where_known():
                    self._known.append(self._profile(number))
        return self._known

    def _profile(self, number: int) -> Profile:
        """The profile of one of NVML's numbers, of which a card has only some."""
        info, name = self._profile_info(number)
        slices = int(info.sliceCount)
        name = name or self._computed_name(number, slices, int(info.memorySizeMB))
        return Profile(int(info.id), name, slices, self._placements(info.id))

    def _profile_info(self, number: int) -> tuple[Any, str]:
        """The description of a profile, with its name where the driver tells that."""
        nvml = self._nvml
        try:
            info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(self._handle, number)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            return nvml.nvmlDeviceGetGpuInstanceProfileInfo(self._handle, number, 1), ""
        return info, mig.profile_in(info.name)

    def _computed_name(self, number: int, slices: int, memory_mib: int) -> str:
        total = int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total) >> 20
        suffix = next(
            (
                suffix
                for constant, suffix in _NAME_SUFFIXES.items()
                if getattr(self._nvml, constant) == number
            ),
            "",
        )
        return mig.profile_of_slices(slices, slices, memory_mib, total) + suffix

    def _placements(self, profile: int) -> tuple[Placement, ...]:
        nvml = self._nvml
        places = (nvml.c_nvmlGpuInstancePlacement_t * MOST_INSTANCES)()
        count = ctypes.c_uint(MOST_INSTANCES)
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(
            self._handle, profile, places, ctypes.byref(count)
        )
        return tuple(Placement(int(p.start), int(p.size)) for p in places[: count.value])

    def _standing(
        self, profile: Profile, instance: Any, devices: Mapping[int, Sequence[Any]]
    ) -> Standing:
        nvml = self._nvml
        info = nvml.nvmlGpuInstanceGetInfo(instance)
        placement = Placement(int(info.placement.start), int(info.placement.size))
        slices = [size for size, _ in self._compute_instances(instance)]
        mine = devices.get(int(info.id), ())
        state = State.WHOLE if slices == [profile.slices] else State.DIVIDED
        return Standing(
            Place(profile.name, placement),
            int(info.id),
            state if slices else State.BARE,
            tuple(str(nvml.nvmlDeviceGetUUID(device)) for device in mine),
            tuple(sorted({pid for device in mine for pid in self._pids(device)})),
        )

    def _mig_devices(self) -> Mapping[int, list[Any]]:
        """The handles of the card's MIG devices by GPU instance."""
        nvml = self._nvml
        found: dict[int, list[Any]] = {}
        for position in range(nvml.nvmlDeviceGetMaxMigDeviceCount(self._handle)):
            try:
                device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(self._handle, position)
            except nvml.NVMLError as error:
                if error.value not in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT):
                    raise
                continue
            found.setdefault(int(nvml.nvmlDeviceGetGpuInstanceId(device)), []).append(device)
        return found

    def _pids(self, device: Any) -> tuple[int, ...]:
        """The processes with memory on a card or MIG device. Computing must be told, the other
        kinds only where the driver knows them.
        """
        users = set(self._users("Compute", device))
        for kind in ("Graphics", "MPSCompute"):
            with self._where_known():
                users.update(self._users(kind, device))
        return tuple(sorted(users))

    def _users(self, kind: str, device: Any) -> Iterator[int]:
        """The processes of a kind, by version 3 of the call or the older one of older drivers."""
        call = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            listed = getattr(self._nvml, f"{call}_v3")(device)
        except self._nvml.NVMLError as error:
            if error.value != self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            listed = getattr(self._nvml, f"{call}_v2")(device)
        return (int(process.pid) for process in listed)

    def _compute_kinds(self, instance: Any) -> list[Any]:
        """The kinds of compute instances that fit into a GPU instance."""
        nvml = self._nvml
        shared = nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
        ask = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
        found = []
        for number in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            with self._where_known():
                found.append(ask(instance, number, shared, 1))
        return found

    def _compute_instances(self, instance: Any) -> Iterator[tuple[int, Any]]:
        """The compute instances in a GPU instance, each with its number of slices."""
        call, kind = "nvmlGpuInstanceGetComputeInstances", "c_nvmlComputeInstance_t"
        for profile in self._compute_kinds(instance):
            for compute in self._listed(call, instance, profile.id, kind):
                yield int(profile.sliceCount), compute

    def _listed(self, call: str, parent: Any, profile: int, kind: str) -> list[Any]:
        room = (getattr(self._nvml, kind) * MOST_INSTANCES)()
        count = ctypes.c_uint(MOST_INSTANCES)
        getattr(self._nvml, call)(parent, profile, room, ctypes.byref(count))
        return list(room[: count.value])

    @contextlib.contextmanager
    def _where_known(self) -> Iterator[None]:
        """Passes over what the card or the driver does not have."""
        nvml = self._nvml
        try:
            yield
        except nvml.NVMLError as error:
            if error.value not in (
                nvml.NVML_ERROR_NOT_SUPPORTED,
                nvml.NVML_ERROR_INVALID_ARGUMENT,
                nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            ):
                raise
