"""The agent's configuration: command line over environment over ``config.json`` over file over
built-in default, checked as a whole. `load` gives a `Loaded` or raises a `ConfigError`.
"""

from deviceplugin.api.problems import Problem
from deviceplugin.config.options import OPTIONS, Option
from deviceplugin.config.parse import config_files, load
from deviceplugin.config.schema import (
    Config,
    ConfigError,
    HealthConfig,
    Loaded,
    MonitorConfig,
    Paths,
    ProbeConfig,
    Replicas,
    Sharing,
)
from deviceplugin.config.settings import effective, section_of, settings_of, vendor_settings

__all__ = [
    "OPTIONS",
    "Config",
    "ConfigError",
    "HealthConfig",
    "Loaded",
    "MonitorConfig",
    "Option",
    "Paths",
    "ProbeConfig",
    "Problem",
    "Replicas",
    "Sharing",
    "config_files",
    "effective",
    "load",
    "section_of",
    "settings_of",
    "vendor_settings",
]
