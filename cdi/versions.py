"""Versions of the specification and the lowest one that a file needs (cdi.md 1.2).

A runtime refuses a file that is newer than itself, so a writer states the required minimum and
not the newest.
"""

from __future__ import annotations

from deviceplugin.cdi.model import ContainerEdits, Spec

RELEASED = (
    *("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0"),
    *("0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"),
)
CURRENT = RELEASED[-1]
_FIRST = "0.3.0"


def rank(version: str) -> int:
    """A version's place in time, -1 for one that was never released; a leading v is tolerated."""
    plain = version.removeprefix("v")
    return RELEASED.index(plain) if plain in RELEASED else -1


def required_version(spec: Spec) -> str:
    """The lowest version that covers everything the specification uses."""
    edits = (spec.container_edits, *(device.container_edits for device in spec.devices))
    needs = {_FIRST, *(version for part in edits for version in _edits_need(part))}
    if any(device.name[:1].isdigit() for device in spec.devices):
        needs.add("0.5.0")
    annotated = spec.annotations or any(device.annotations for device in spec.devices)
    if annotated or "." in spec.kind.partition("/")[2]:
        needs.add("0.6.0")
    return max(needs, key=rank)


def _edits_need(edits: ContainerEdits) -> set[str]:
    rdt = edits.intel_rdt
    rules = {
        "0.4.0": any(mount.type for mount in edits.mounts),
        "0.5.0": any(node.host_path for node in edits.device_nodes),
        "0.7.0": bool(rdt or edits.additional_gids),
        "1.1.0": bool(edits.net_devices or (rdt and (rdt.schemata or rdt.enable_monitoring))),
    }
    return {version for version, applies in rules.items() if applies}
