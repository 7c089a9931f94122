"""Makes the MIG partitions that schedulers grant: plan, journal, create, read back, commit.

Runs in the probe. What the driver says afterwards is what counts: the answer to a request is read
from it, never from what was asked for. Partitions stay when their containers end, until an idle
card needs another geometry (hami-nvidia-node.md 4.4). Nothing is ever destroyed that somebody
holds or that has processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from deviceplugin.vendor import DriverError, PhysicalDevice
from deviceplugin.vendors.nvidia import facts, geometry
from deviceplugin.vendors.nvidia.geometry import Layout, Place, Standing, State, Work
from deviceplugin.vendors.nvidia.journal import Entry, Journal, JournalError, JournalHeldError
from deviceplugin.vendors.nvidia.mig_driver import Card
from deviceplugin.vendors.nvidia.mig_request import Request, answer, parsed

ReadBack: TypeAlias = Callable[[Any, str], Sequence[PhysicalDevice]]
"""The MIG devices of the card of a uuid, as an initialised NVML tells them now."""

_RESET = (
    "stop whatever uses the GPU (monitors, nvidia-persistenced, DCGM) and reset it "
    "(nvidia-smi --gpu-reset), or reboot the node"
)


class DynamicMig:
    """The partitions of this node's cards, through a binding (module ``pynvml``) that is
    initialised whenever a method is called.
    """

    def __init__(self, journal: Journal, read_back: ReadBack) -> None:
        self._journal, self._read_back = journal, read_back

    def recover(self, nvml: Any) -> tuple[str, ...]:
        """Bring to an end what a former process left half-done; answers what is in the way of that,
        one sentence each.
        """
        try:
            if not _open(self._journal.read()):
                return ()
            with self._journal.held(wait=False):
                return tuple(self._settle_all(nvml))
        except JournalHeldError:
            # Somebody is at work and will end what he began.
            return ()
        except JournalError as error:
            return (f"{error}; it is ignored: the GPUs themselves say how they are partitioned",)
        except OSError as error:
            return (f"half-made MIG partitions are not removed: {error}",)

    def partition(self, nvml: Any, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The partition that a request describes, made if it is not there. Equal requests get equal
        answers for as long as it stands.

        Raises `DriverError`.
        """
        wanted = parsed(data)
        try:
            with self._journal.held(wait=True), _about(nvml, f"GPU {wanted.device}"):
                return answer(self._partitioned(nvml, wanted))
        except OSError as error:
            raise DriverError(
                f"{self._journal.path} cannot be written, and without it no GPU is partitioned: "
                f"{error}"
            ) from None

    # --- recovery ---

    def _settle_all(self, nvml: Any) -> Iterator[str]:
        for uuid, entry in _open(self._journal.read()).items():
            try:
                self._settle(nvml, uuid, entry)
            except nvml.NVMLError as error:
                yield f"half-made MIG partitions of GPU {uuid} are not removed: {error}; see dmesg"

    def _settle(self, nvml: Any, uuid: str, entry: Entry) -> None:
        """Remove what is half-made, adopt what is complete, and close the entry.

        Raises NVML's error and `OSError`.
        """
        card = _card(nvml, uuid)
        stands = False
        if card is not None and card.mode().now:
            for each in card.standing():
                if each.state is State.BARE and each.place not in entry.kept:
                    card.destroy(each.id)
            stands = any(each.place in entry.layout for each in card.standing())
        self._remember(uuid, Entry(entry.layout) if stands else None)

    # --- one request ---

    def _partitioned(self, nvml: Any, wanted: Request) -> PhysicalDevice:
        """The MIG device of the request. Raises `DriverError`, NVML's error and `OSError`."""
        if reason := geometry.rivalry(wanted.slot, wanted.holders or ()):
            raise DriverError(f"GPU {wanted.device} cannot be partitioned now: {reason}")
        card, entry = Card(nvml, wanted.device), self._remembered(wanted.device)
        _switch_on(nvml, card)
        standing: Sequence[Standing] = card.standing()
        todo = _work(card, wanted, standing, entry.layout if entry else ())
        if reason := geometry.refusal(todo, standing, wanted.holders):
            raise DriverError(f"GPU {card.uuid} cannot be partitioned now: {reason}")
        if todo:
            standing = self._carry_out(nvml, card, todo, standing)
        elif entry != Entry(todo.layout):
            self._remember(card.uuid, Entry(todo.layout))
        return self._found(nvml, card, todo.layout[wanted.slot.position], standing)

    def _carry_out(
        self, nvml: Any, card: Card, todo: Work, standing: Sequence[Standing]
    ) -> Sequence[Standing]:
        """Do the work under the journal, or undo it; answers what stands then.

        Raises `DriverError`, NVML's error and `OSError`.
        """
        kept = () if todo.destroy else tuple(each.place for each in standing)
        entry = Entry(todo.layout, open=True, kept=kept)
        self._remember(card.uuid, entry)
        made: list[int] = []
        try:
            for each in todo.destroy:
                with _about(nvml, f"GPU {card.uuid}: removing {each}"):
                    card.destroy(each.id)
            for each in todo.complete:
                with _about(nvml, f"GPU {card.uuid}: completing {each}"):
                    card.complete(each.id, each.place.profile)
            for place in todo.create:
                with _about(nvml, f"GPU {card.uuid}: making {place}"):
                    made.append(card.create(place))
                    card.complete(made[-1], place.profile)
            standing = card.standing()
            _check(todo.layout, standing)
        except (nvml.NVMLError, DriverError):
            self._undo(nvml, card, made, entry)
            raise
        self._remember(card.uuid, Entry(todo.layout))
        return standing

    def _undo(self, nvml: Any, card: Card, made: Sequence[int], entry: Entry) -> None:
        """Remove what was just made, which nobody knows of. Where the driver refuses that, the
        entry stays open and the next discovery tries again.
        """
        for number in reversed(made):
            with contextlib.suppress(nvml.NVMLError):
                card.destroy(number)
        with contextlib.suppress(nvml.NVMLError):
            self._settle(nvml, card.uuid, entry)

    def _found(
        self, nvml: Any, card: Card, place: Place, standing: Sequence[Standing]
    ) -> PhysicalDevice:
        """The MIG device at a place, as the driver tells it. Raises `DriverError`."""
        number = next(str(each.id) for each in standing if each.place == place)
        for device in self._read_back(nvml, card.uuid):
            if device.attributes.get(facts.GPU_INSTANCE) == number:
                if not device.healthy:
                    raise DriverError(f"MIG device {device.uuid} is unhealthy: {device.reason}")
                return device
        raise DriverError(f"GPU {card.uuid} does not list the MIG device {place}; see dmesg")

    # --- the journal ---

    def _remembered(self, uuid: str) -> Entry | None:
        with contextlib.suppress(JournalError):
            return self._journal.read().get(uuid)
        return None

    def _remember(self, uuid: str, entry: Entry | None) -> None:
        """Write the entry of one card, or remove it. Raises `OSError`."""
        entries: dict[str, Entry] = {}
        with contextlib.suppress(JournalError):
            entries.update(self._journal.read())
        entries.pop(uuid, None)
        if entry is not None:
            entries[uuid] = entry
        self._journal.write(entries)


def _open(entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    return {uuid: entry for uuid, entry in entries.items() if entry.open}


def _card(nvml: Any, uuid: str) -> Card | None:
    """The card; None for one that is no longer on the node. Raises NVML's error."""
    try:
        return Card(nvml, uuid)
    except nvml.NVMLError as error:
        if error.value != nvml.NVML_ERROR_NOT_FOUND:
            raise
        return None


def _switch_on(nvml: Any, card: Card) -> None:
    """Put an idle card into MIG mode. Raises `DriverError` where it cannot be or stay in it."""
    try:
        mode = card.mode()
    except nvml.NVMLError as error:
        if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
            raise
        raise DriverError(f"GPU {card.uuid} has no MIG mode and cannot be partitioned") from None
    if mode.now and not mode.pending:
        raise DriverError(
            f"MIG mode of GPU {card.uuid} ends with its next reset: switch it on again "
            "(nvidia-smi -mig 1), or take the node out of mode mig"
        )
    if mode.now:
        return
    if pids := card.pids():
        shown = ", ".join(map(str, pids))
        raise DriverError(
            f"GPU {card.uuid} is not in MIG mode and used as a whole by process {shown}: wait for "
            "it to end"
        )
    with _about(nvml, f"GPU {card.uuid}: switching MIG mode on"):
        status = card.enable()
    if not card.mode().now:
        reason = f" ({status})" if status else ""
        raise DriverError(f"MIG mode of GPU {card.uuid} is pending{reason}: {_RESET}")


def _work(card: Card, wanted: Request, standing: Sequence[Standing], remembered: Layout) -> Work:
    """What the request takes on this card. Raises `DriverError` where the card cannot have it."""
    profiles = card.profiles()
    names = [geometry.known_as(name, profiles) for name in wanted.profiles]
    remedy = "correct nvidia.knownMigGeometries"
    if "" in names:
        missing, there = wanted.profiles[names.index("")], ", ".join(sorted(profiles))
        raise DriverError(f"GPU {card.uuid} has no MIG profile {missing}, only {there}: {remedy}")
    possible = {name: profile.placements for name, profile in profiles.items()}
    try:
        return geometry.work(names, possible, standing, remembered)
    except ValueError as error:
        raise DriverError(f"GPU {card.uuid} cannot be partitioned: {error}; {remedy}") from None


def _check(layout: Layout, standing: Sequence[Standing]) -> None:
    """Everything that was made is there. Raises `DriverError`."""
    whole = {each.place for each in standing if each.state is State.WHOLE}
    if missing := [str(place) for place in layout if place not in whole]:
        raise DriverError(f"the driver did not make {', '.join(missing)}, but said so; see dmesg")


@contextlib.contextmanager
def _about(nvml: Any, what: str) -> Iterator[None]:
    """NVML's error becomes a `DriverError` that says what was being done, and the remedy."""
    try:
        yield
    except nvml.NVMLError as error:
        remedies = {
            nvml.NVML_ERROR_NO_PERMISSION: "run the agent privileged",
            nvml.NVML_ERROR_IN_USE: "something still uses it; wait for that to end",
            nvml.NVML_ERROR_INSUFFICIENT_RESOURCES: "what others made on the GPU is in the way",
        }
        raise DriverError(f"{what}: {error}; {remedies.get(error.value, 'see dmesg')}") from None
