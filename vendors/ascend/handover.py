"""What a container is handed: the two variables by which ascend-docker-runtime finds its NPU. Pure.

The runtime does the rest: it makes the vNPU of a template, brings the device nodes in, and mounts
the driver (ascend-and-mock.md A.8, A.9). It makes a vNPU for a container that sees one NPU, and for
no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence

from deviceplugin.vendor import ContainerEdits, Grant, Owner, PhysicalDevice
from deviceplugin.vendors.ascend.chips import Chip, Template, cores_in_name
from deviceplugin.vendors.ascend.configuration import Configuration
from deviceplugin.vendors.ascend.discovery import PHYSICAL

__all__ = ["OPTIONS", "SPECS", "VISIBLE", "edits", "handed"]

VISIBLE = "ASCEND_VISIBLE_DEVICES"
SPECS = "ASCEND_VNPU_SPECS"
OPTIONS = "ASCEND_RUNTIME_OPTIONS"
VIRTUAL = "VIRTUAL"

MOST_VISIBLE = 128
"""NPUs of one range."""

_VISIBLE = re.compile(r"((Ascend\w*|npu)-)?(?P<first>\d{1,4})(-(?P<last>\d{1,4}))?", re.ASCII)

_ONE_TABLE = "give the node and its scheduler one and the same section vnpus"


def edits(
    grants: Sequence[Grant], owner: Owner, configuration: Configuration, *, by_cdi: bool
) -> ContainerEdits:
    """The variables of a container. `by_cdi` says that CDI carries them, which overrides what the
    pod sets. Raises `ValueError`.
    """
    _check_own_variables(owner, by_cdi)
    names = [_template(_chip(configuration, grant), grant, owner) for grant in grants]
    env = {VISIBLE: ",".join(_physical(grant) for grant in grants)}
    if template := next((name for name in names if name), ""):
        if len(grants) > 1:
            raise ValueError(
                f"{len(grants)} NPUs, one of them in part: ascend-docker-runtime cuts the one NPU "
                "that a container sees; ask for whole NPUs, or for one part"
            )
        if not configuration.accepts(template):
            raise ValueError(
                f"ascend-docker-runtime knows no template {template}, so the container could not "
                "be created: correct vnpus, or where the runtime is newer than this agent, add the "
                "name to ascend.runtimeTemplates"
            )
        env[SPECS] = template
    return ContainerEdits(env=env)


def handed(answer: ContainerEdits, devices: Sequence[PhysicalDevice]) -> Collection[str] | None:
    """The NPUs that the variable names, in each form that the runtime takes: numbers, ranges of
    them, and names that end in one (ascend-and-mock.md A.9). Raises `ValueError` for what no NPU of
    these has.
    """
    if (text := answer.env.get(VISIBLE)) is None:
        return None
    if VIRTUAL in answer.env.get(OPTIONS, ""):
        raise ValueError(f"{VISIBLE} names vNPUs, which do not tell their NPU")
    by_number = {device.attributes.get(PHYSICAL): device.uuid for device in devices}
    found = []
    for piece in text.split(","):
        parsed = _VISIBLE.fullmatch(piece.strip())
        if parsed is None:
            raise ValueError(f"{VISIBLE} names {piece!r:.40}, which is no NPU")
        first, last = int(parsed["first"]), int(parsed["last"] or parsed["first"])
        for number in range(first, min(last, first + MOST_VISIBLE) + 1):
            if (uuid := by_number.get(str(number))) is None:
                raise ValueError(f"{VISIBLE} names NPU {number}, which is none of these")
            found.append(uuid)
    return found


def _chip(configuration: Configuration, grant: Grant) -> Chip:
    if (chip := configuration.chip(grant.device.model)) is None:
        raise ValueError(f"no entry of vnpus has chipName {grant.device.model}")
    return chip


def _physical(grant: Grant) -> str:
    number = grant.device.attributes.get(PHYSICAL, "")
    if not (number.isascii() and number.isdigit()):
        raise ValueError(f"the physical id of NPU {grant.device.uuid} is not known")
    return number


def _check_own_variables(owner: Owner, by_cdi: bool) -> None:
    """The runtime goes by the last variable of a name, and the pod's own are the last: it could
    take any NPU of the node. Raises `ValueError`.
    """
    own = owner.environment
    wrong = [name for name in (VISIBLE, SPECS) if name in own and not by_cdi]
    # An empty value may come from elsewhere and be anything when the container starts.
    if OPTIONS in own and (not own[OPTIONS] or VIRTUAL in own[OPTIONS]):
        wrong.append(OPTIONS)
    if wrong:
        raise ValueError(
            f"container {owner.container} of pod {owner.pod_namespace}/{owner.pod_name} sets "
            f"{', '.join(wrong)}, by which the runtime would take other NPUs than its own: remove "
            "it from the pod"
        )


def _template(chip: Chip, grant: Grant, owner: Owner) -> str:
    """The name of a grant's template, empty for the whole NPU. Raises `ValueError`."""
    if grant.shares == grant.of and not owner.scheduled:
        return ""
    if not owner.scheduled:
        return _of_shares(chip, grant)
    memory = grant.memory_mib
    if memory is None or memory == chip.memory_mib:
        return ""
    part = chip.part(memory)
    if part is None or part.template is None:
        raise ValueError(
            f"the scheduler gives {memory} MiB of {chip.word}, which is neither a template's nor "
            f"the whole card's ({chip.memory_mib}); {_ONE_TABLE}"
        )
    return _of_scheduler(chip, grant, part.template, owner, exact=memory == part.memory_mib)


def _of_shares(chip: Chip, grant: Grant) -> str:
    """Shares that kubelet gave make a template when it takes just as many (910A: 1, 2, 4, 8)."""
    sizes = {-(-t.memory_mib * grant.of // chip.memory_mib): t.name for t in chip.templates}
    if (name := sizes.get(grant.shares)) is None:
        known = ", ".join(str(size) for size in (*sorted(sizes), grant.of))
        raise ValueError(
            f"{grant.shares} of {grant.of} shares of {chip.word} are no template; ask for one of "
            f"{known}"
        )
    return name


def _of_scheduler(chip: Chip, grant: Grant, own: Template, owner: Owner, *, exact: bool) -> str:
    """The template by the name that the scheduler's table has for it, which may be another than
    ours (910B4-1, A.2.4), as long as it is of the same size.
    """
    named = _named(chip, grant, owner)
    if named is None:
        if exact:
            return own.name
        raise ValueError(
            f"the scheduler gives {grant.memory_mib} MiB of {chip.word}, and the least that holds "
            f"them has {own.memory_mib}; {_ONE_TABLE}"
        )
    same = {name for name in named if cores_in_name(name) == cores_in_name(own.name)}
    if own.name in same:
        return own.name
    if len(same) != 1:
        raise ValueError(
            f"the scheduler gives {grant.memory_mib} MiB of {chip.word}, {own.name} here, and "
            f"names {', '.join(sorted(named)) or 'no template'}: soft slicing "
            f"(huawei.com/vnpu-mode) is not served, and for templates {_ONE_TABLE}"
        )
    return same.pop()


def _named(chip: Chip, grant: Grant, owner: Owner) -> set[str] | None:
    """The templates that annotation ``huawei.com/<word>`` has for this NPU, over all containers of
    the pod; None where it does not speak of it (A.3.6). Raises `ValueError`.
    """
    key = f"huawei.com/{chip.word}"
    text = owner.pod_annotations.get(key)
    if text is None:
        return None
    try:
        entries = json.loads(text)
        told = [entry.get("temp") or "" for entry in entries if _speaks_of(entry, grant)]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError(
            f"annotation {key} is no list of UUID and temp, as schedulers write it"
        ) from None
    return {str(name)[:40] for name in told if name} if told else None


def _speaks_of(entry: dict[str, object], grant: Grant) -> bool:
    return entry.get("UUID") == grant.device.uuid
