"""The descriptors of the sound vendor and of those that break one promise each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from deviceplugin.vendor import Vendor

HERE = "deviceplugin.testing.conformance.broken"
PROFILE = f"{HERE}:profile.yaml"


def _vendor(
    node: str = "sound:Node",
    half: str = "halves:sound",
    profile: str = PROFILE,
    presence: str = "dev/sound[0-9]*",
) -> Vendor:
    return Vendor(
        name="sound",
        node=f"{HERE}.{node}",
        resource="sound.example.com/card",
        presence=(presence,),
        scheduling=f"{HERE}.{half}",
        profile=profile,
    )


SOUND = _vendor()

VENDORS: Mapping[str, tuple[Vendor, ...]] = MappingProxyType(
    {
        "descriptor": (_vendor(presence="/dev/sound[0-9]*"),),
        "node-half": (_vendor("nodes:NeedsDriver"),),
        "scheduling-half": (_vendor(half="halves:absent"), _vendor(half="halves:alone")),
        "scheduling-light": (_vendor("nodes:Node", "heavy:sound"),),
        "no-driver": (_vendor("nodes:Hangs"), _vendor("nodes:Dies")),
        "host-root": (_vendor("nodes:Homely"),),
        "identities": (_vendor(profile=f"{HERE}:twins.yaml"),),
        "resources": (_vendor("nodes:IllegalResource"),),
        "no-devices": (_vendor("nodes:NeedsDevices"),),
        "order": (_vendor("nodes:FirstCardOnly"),),
        "plan-pure": (_vendor("nodes:Counting"),),
        "health": (_vendor("nodes:Dropping"),),
        "capacity": (_vendor("nodes:Twice"),),
        "list-size": (_vendor("nodes:Endless"),),
        "edits": (_vendor("nodes:Refusing"),),
        "cdi": (_vendor("nodes:NoHook"),),
        "response": (_vendor("nodes:EmptyVariable"), _vendor("nodes:RelativePath")),
        "own-device": (_vendor("nodes:SameForAll"),),
        "read-back": (_vendor("nodes:Misreading"),),
        "limits": (_vendor("nodes:Unlimited"), _vendor(half="halves:cored")),
        "edits-pure": (_vendor("nodes:Remembering"),),
        "edits-steady": (_vendor("nodes:Unordered"),),
        "hostile-pod": (_vendor("nodes:Believing"),),
        "registered": (_vendor("nodes:Strange"),),
        "node-annotations": (_vendor("nodes:Foreign"),),
        "keys": (_vendor("nodes:Unanswered"), _vendor("nodes:Silent"), _vendor("nodes:Apart")),
        "words": (_vendor(half="halves:other_resource"), _vendor("nodes:Keyless")),
        "readable": (_vendor(half="halves:blind"),),
        "absurd-requests": (_vendor(half="halves:crashing"),),
        "admission": (_vendor(half="halves:growing"),),
        "hostile-node": (_vendor(half="halves:trusting"),),
        "named-annotations": (_vendor(half="halves:nosy"),),
        "never-over": (_vendor(half="halves:overbooking"),),
        "score-bound": (_vendor(half="halves:excited"),),
        "decision": (_vendor(half="halves:renaming"), _vendor(half="halves:loud")),
    }
)
"""By the check that each fails, and no other."""
