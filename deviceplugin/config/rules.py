"""Rules that hold between values: the start-up refusals of kubelet-deviceplugin.md 4.2 and
hami-nvidia-node.md 1.1, and our own. Pure.

A CDI strategy on a host without NVML is refused by NVIDIA's backend, which alone can know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from deviceplugin.api.problems import Problem
from deviceplugin.config.schema import Config

__all__ = ["cross_check"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """`broken` says when `text` is true; `about` are the fields it looks at, the first one to
    blame, which stands at `key`.
    """

    about: tuple[str, ...]
    key: str
    broken: Callable[[Config], object]
    text: str
    remedy: str


def _mig_resource(config: Config) -> str:
    shared = config.sharing.mps
    return next((name for name in shared if name.partition("/")[2].startswith("mig-")), "")


_RULES = (
    _Rule(
        ("sharing", "mig_strategy"),
        "sharing.mps",
        lambda config: config.sharing.mps and config.mig_strategy == "mixed",
        "MPS does not go with the MIG strategy mixed",
        "use migStrategy none or single, or remove sharing.mps",
    ),
    _Rule(
        ("sharing", "paths.mps_root"),
        "sharing.mps",
        lambda config: config.sharing.mps and not config.paths.mps_root,
        "MPS needs a directory that it shares with its daemon",
        "set --mps-root, MPS_ROOT or flags.mpsRoot, for example /run/nvidia/mps",
    ),
    _Rule(
        ("sharing",),
        "sharing.mps",
        _mig_resource,
        "MIG instances cannot be shared by MPS",
        "share them by timeSlicing, or remove the resource",
    ),
    _Rule(
        ("allocation", "device_list_strategy"),
        "agent.allocation",
        lambda config: config.allocation.endswith("deferred") and not config.uses_cdi,
        "deferred allocation needs CDI",
        "add cdi-cri or cdi-annotations to --device-list-strategy, or use standalone or "
        "scheduled-locked",
    ),
    _Rule(
        ("allocation", "device_list_strategy"),
        "agent.allocation",
        lambda config: (
            config.allocation == "scheduled-deferred"
            and any(not name.startswith("cdi-") for name in config.device_list_strategy)
        ),
        "with deferred grants only CDI carries devices: other strategies would hand over nothing",
        "leave just cdi-cri or cdi-annotations in --device-list-strategy, or use scheduled-locked",
    ),
    _Rule(
        ("health.failures", "health.window"),
        "agent.health.failures",
        lambda config: config.health.failures > config.health.window,
        "more failures than probes that are looked back on: nothing would become unhealthy",
        "raise agent.health.window to at least this",
    ),
    _Rule(
        ("probe.backoff_most_seconds", "probe.backoff_first_seconds"),
        "agent.probe.backoffMost",
        lambda config: config.probe.backoff_most_seconds < config.probe.backoff_first_seconds,
        "the longest wait is shorter than the first",
        "raise it, or lower agent.probe.backoffFirst",
    ),
)


def cross_check(
    config: Config, refused: Collection[str], provenance: Mapping[str, str]
) -> Iterator[Problem]:
    """The rules that the configuration breaks. Rules about a `refused` field are left aside:
    its value is a stand-in, and the mistake is told already.
    """
    for rule in _RULES:
        if not any(name in refused for name in rule.about) and rule.broken(config):
            source = provenance[rule.key.removesuffix(".mps")]
            value = _value(config, rule.about[0])
            yield Problem(source, rule.key, value, rule.text, rule.remedy)


def _value(config: Config, name: str) -> object:
    if name == "sharing":
        return tuple(config.sharing.mps)
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
