"""The vendor's section of the configuration file becomes the profile that is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami.keys import MUTEX_LOCK, VENDORS, Registration, VendorKeys
from deviceplugin.api.problems import nearest
from deviceplugin.vendor import Vendor, VendorSettings
from deviceplugin.vendors.mock import VENDOR, imitation, reading
from deviceplugin.vendors.mock.fields import Fields, shown
from deviceplugin.vendors.mock.profile import Profile

PROFILES = Path(__file__).with_name("profiles")
DEFAULT_PROFILE = "small"

KEYS = (
    "profile",
    "node",
    "resource",
    "deviceSplitCount",
    "deviceMemoryScaling",
    "deviceCoreScaling",
    "exposure",
    "faults",
    "startedAt",
    "word",
    "imitate",
    "section",
    "harmless",
)
SOURCE = "section mock"

KEYS_OF_OUR_OWN = VendorKeys(
    common_word="mock",
    registration=Registration.JSON,
    register="mock.deviceplugin.dev/node-register",
    handshake="mock.deviceplugin.dev/node-handshake",
    lock=MUTEX_LOCK,
    to_allocate="mock.deviceplugin.dev/devices-to-allocate",
    allocated="mock.deviceplugin.dev/devices-allocated",
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is served, since when (unix seconds; None: since the first discovery), and what the
    section says that nobody understands. `keys` are the annotations that schedulers use. `imitated`
    is the vendor whose part is played, with its own `section`.
    """

    profile: Profile
    started_at: float | None = None
    keys: VendorKeys = KEYS_OF_OUR_OWN
    problems: tuple[str, ...] = ()
    imitated: Vendor | None = None
    section: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    harmless: bool = True


def configured(settings: VendorSettings) -> Configuration:
    """The configuration of this node. Reads the profile's file. Raises `ProfileError`.

    Unknown keys of the section are problems and not errors, as everywhere in the configuration
    file; a profile is read strictly.
    """
    problems = tuple(
        f"{SOURCE}: {key}: unknown key is ignored; {nearest(key, KEYS)}"
        for key in settings.section
        if key not in KEYS
    )
    known = {key: value for key, value in settings.section.items() if key in KEYS}
    section = Fields(known, SOURCE, "", KEYS)
    imitated = _imitated(section)
    profile = _overridden(_profile(section, settings.node_name, imitated), section)
    started = section.number("startedAt") if "startedAt" in section else None
    return Configuration(
        profile,
        started,
        _keys(section),
        problems,
        imitated,
        MappingProxyType({key: value for key, _, value in section.members("section")}),
        section.flag("harmless", True),
    )


def _imitated(section: Fields) -> Vendor | None:
    """The vendor whose part is played."""
    name = section.text("imitate", "")
    if not name:
        return None
    known = imitation.installed_names()
    vendor = imitation.vendor_named(name) if name in known else None
    if vendor is None:
        raise section.wrong("imitate", f"no vendor {shown(name)}", nearest(name, known))
    return vendor


def _keys(section: Fields) -> VendorKeys:
    """Those of the vendor that is imitated towards schedulers, else the mock's own."""
    word = section.text("word", "")
    if not word:
        return KEYS_OF_OUR_OWN
    if word not in VENDORS:
        raise section.wrong("word", f"no vendor {shown(word)}", nearest(word, sorted(VENDORS)))
    return VENDORS[word]


def shipped() -> list[str]:
    """The names of the profiles that come with the vendor."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def _profile(section: Fields, node_name: str, imitated: Vendor | None) -> Profile:
    if "node" in section:
        if "profile" in section:
            raise section.wrong("node", "stands beside profile", "remove one of the two")
        data = section.raw("node")
        source = f"{SOURCE}: node"
        return reading.read(data, source, VENDOR.resource, seed=node_name, inline=True)
    if imitated is not None and "profile" not in section:
        text, source = imitation.own_profile(imitated), f"{imitated.name}'s own profile"
        if not text:
            remedy = "name a profile or describe a node beside it"
            raise section.wrong("imitate", f"{imitated.name} brings no profile of its own", remedy)
        data = reading.parse(text, source)
        return reading.read(data, source, imitated.resource, seed=f"{node_name}/{imitated.name}")
    name = section.text("profile", DEFAULT_PROFILE)
    path = Path(name)
    if "/" not in name and path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name}.yaml"
        if name not in shipped():
            remedy = f"{nearest(name, shipped())}; a file needs a / or .yaml"
            raise section.wrong("profile", f"no profile {shown(name)}", remedy)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no UTF-8 text"
        remedy = "name a file that the agent can read"
        raise section.wrong("profile", f"{shown(name)}: {reason}", remedy) from None
    source = str(path)
    return reading.read(
        reading.parse(text, source), source, VENDOR.resource, seed=f"{node_name}/{path.stem}"
    )


def _overridden(profile: Profile, section: Fields) -> Profile:
    """The profile with what the section says differently."""
    resource = reading.resource(section, profile.resource)
    split = profile.split
    if any(f"device{what}" in section for what in ("SplitCount", "MemoryScaling", "CoreScaling")):
        split = reading.limited(
            split,
            count=section.whole("deviceSplitCount", split.count, 1, reading.MOST_SHARES),
            memory=section.number("deviceMemoryScaling", split.memory_scaling, 0.01, 1000.0),
            cores=section.number("deviceCoreScaling", split.cores_scaling, 0.01, 1000.0),
        )
    moments = (profile.snapshot, *(change.snapshot for change in profile.changes))
    devices = [device for moment in moments for device in moment.devices]
    added = reading.faults(section, devices)
    return replace(
        profile,
        resource=resource,
        split=split,
        exposure=section.flag("exposure", profile.exposure),
        faults=tuple(sorted((*profile.faults, *added), key=lambda fault: fault.at)),
    )
