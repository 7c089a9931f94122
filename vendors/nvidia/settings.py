"""The operator's wishes for NVIDIA nodes, typed. Pure.

Option names are those of NVIDIA's plugin (kubelet-deviceplugin.md 4.1, 4.2), the section is HAMi's
(hami-nvidia-node.md 1.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deviceplugin.api.hami_config import MigModels, NvidiaSection, parse_nvidia_section
from deviceplugin.vendor import Replicas, VendorSettings

MIG_STRATEGIES = ("none", "single", "mixed")
DISCOVERY_STRATEGIES = ("auto", "nvml", "tegra")


@dataclass(frozen=True, slots=True)
class NvidiaSettings:
    """What the parts of this backend go by.

    `driver_root`, `dev_root`, `hook_path`, `cdi_hook_path` and `mps_root` are paths on the host;
    `container_driver_root` is where this process sees the driver root and `run_dir` where it keeps
    what must survive it. `split` says that the
    operator wants HAMi's shares. `by_index` names devices to containers by index, not by uuid.
    """

    host_root: str = "/"
    enforce_isolation: bool = True
    section: NvidiaSection = field(default_factory=NvidiaSection)
    split: bool = False
    sharing: Mapping[str, Replicas] = field(default_factory=lambda: MappingProxyType({}))
    mig_strategy: str = "none"
    discovery_strategy: str = "auto"
    fail_on_init_error: bool = True
    run_dir: str = "/run/deviceplugin"
    driver_root: str = "/"
    dev_root: str = "/"
    container_driver_root: str = "/driver-root"
    cdi_hook_path: str = "/usr/bin/nvidia-ctk"
    hook_path: str = "/usr/local"
    mps_root: str = ""
    by_index: bool = False
    uses_cdi: bool = False
    gdrcopy: bool = False
    gds: bool = False
    mofed: bool = False
    imex_channels: tuple[int, ...] = ()
    imex_required: bool = False
    disabled_hooks: frozenset[str] = frozenset()
    disable_checks: tuple[str, ...] = ()
    enable_checks: tuple[str, ...] = ()

    @property
    def dynamic_mig(self) -> bool:
        """Whether cards are partitioned as schedulers ask (HAMi's operating mode ``mig``)."""
        return self.section.operating_mode == "mig"

    @property
    def offers_instances(self) -> bool:
        """Whether MIG instances that are there are resources of their own."""
        return self.mig_strategy != "none" and not self.dynamic_mig

    @property
    def geometries(self) -> tuple[MigModels, ...]:
        """How cards may be partitioned on demand; nothing where they are not."""
        return self.section.known_mig_geometries if self.dynamic_mig else ()

    @property
    def mps(self) -> bool:
        """Whether shares are to be limited by MPS: operating mode ``mps``, where the operator says
        that it means that. HAMi's own mode of this name limits by libvgpu.
        """
        section = self.section
        return self.enforce_isolation and section.operating_mode == "mps" and section.mps_limits

    @property
    def limited(self) -> bool:
        """Whether shares are to be limited by libvgpu."""
        return self.split and self.enforce_isolation and not (self.dynamic_mig or self.mps)


def read(settings: VendorSettings) -> NvidiaSettings:
    """The typed settings. Raises `ValueError` that names every value that does not fit."""
    section, problems = parse_nvidia_section(settings.section)
    if problems:
        raise ValueError("; ".join(str(problem) for problem in problems))
    options = settings.options
    driver_root = _path(options, "nvidiaDriverRoot", "/")
    return NvidiaSettings(
        host_root=settings.host_root,
        enforce_isolation=settings.enforce_isolation,
        section=section,
        split="deviceSplitCount" in settings.section,
        sharing=settings.sharing,
        mig_strategy=_word(options, "migStrategy", MIG_STRATEGIES),
        discovery_strategy=_word(options, "deviceDiscoveryStrategy", DISCOVERY_STRATEGIES),
        fail_on_init_error=bool(options.get("failOnInitError", True)),
        run_dir=_path(options, "runDir", "/run/deviceplugin"),
        driver_root=driver_root,
        dev_root=_path(options, "nvidiaDevRoot", driver_root),
        container_driver_root=_path(options, "containerDriverRoot", "/driver-root"),
        cdi_hook_path=_text(
            options,
            "nvidiaCDIHookPath",
            _text(options, "nvidiaCTKPath", "/usr/bin/nvidia-ctk"),
        ),
        hook_path=_path(options, "hookPath", "/usr/local"),
        mps_root=_path(options, "mpsRoot", ""),
        by_index=options.get("deviceIDStrategy") == "index",
        uses_cdi=any(name.startswith("cdi-") for name in _texts(options, "deviceListStrategy")),
        gdrcopy=bool(options.get("gdrcopyEnabled")),
        gds=bool(options.get("gdsEnabled")),
        mofed=bool(options.get("mofedEnabled")),
        imex_channels=tuple(int(channel) for channel in options.get("imexChannelIDs") or ()),
        imex_required=bool(options.get("imexRequired")),
        disabled_hooks=frozenset(_texts(options, "cdiDisableHooks")),
        disable_checks=_texts(options, "disableHealthChecks"),
        enable_checks=_texts(options, "enableHealthChecks"),
    )


def _text(options: Mapping[str, Any], key: str, default: str) -> str:
    return str(options.get(key) or default)


def _path(options: Mapping[str, Any], key: str, default: str) -> str:
    text = _text(options, key, default)
    return text.rstrip("/") or text[:1]


def _texts(options: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of words, also when it is one text with commas."""
    value = options.get(key) or ()
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(text for part in parts if (text := str(part).strip()))


def _word(options: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = _text(options, key, allowed[0])
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; write one of {', '.join(allowed)}")
    return value
