"""The Container Device Interface: a library in its own right.

Values (`Spec`, `Device`, `ContainerEdits`, ...) are frozen. `dumps` and `loads` are the file,
`problems` and `check` its rules, `write_spec` puts it where runtimes notice, `load_directories`
reads what a runtime reads, `resolve` and `apply` do what a runtime does with it. Errors are
`CDIError`, with every problem by file, field, value and rule.

A part is loaded when the first of its names is used: who only holds values pays for no files.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deviceplugin.cdi.annotations import (
        annotate,
        annotation_key,
        annotation_value,
        parse_annotations,
    )
    from deviceplugin.cdi.application import apply, apply_edits
    from deviceplugin.cdi.cache import (
        DEFAULT_DIRECTORIES,
        EXTENSIONS,
        Cache,
        LoadedDevice,
        LoadedSpec,
        load_directories,
        read_spec,
    )
    from deviceplugin.cdi.codec import dumps, loads, to_dict
    from deviceplugin.cdi.errors import CDIError, Problem
    from deviceplugin.cdi.model import (
        ContainerEdits,
        Device,
        DeviceNode,
        Hook,
        IntelRdt,
        Mount,
        NetDevice,
        Spec,
    )
    from deviceplugin.cdi.names import (
        QualifiedName,
        device_name_for,
        identity_of,
        is_qualified_name,
        parse_qualified_name,
        qualified_name,
    )
    from deviceplugin.cdi.resolution import UnresolvableError, combine, resolve
    from deviceplugin.cdi.schema import plain
    from deviceplugin.cdi.validation import check, problems
    from deviceplugin.cdi.versions import CURRENT, RELEASED, required_version
    from deviceplugin.cdi.writer import remove_spec, spec_file_name, sweep_temporaries, write_spec

__all__ = [
    "CURRENT",
    "DEFAULT_DIRECTORIES",
    "EXTENSIONS",
    "RELEASED",
    "CDIError",
    "Cache",
    "ContainerEdits",
    "Device",
    "DeviceNode",
    "Hook",
    "IntelRdt",
    "LoadedDevice",
    "LoadedSpec",
    "Mount",
    "NetDevice",
    "Problem",
    "QualifiedName",
    "Spec",
    "UnresolvableError",
    "annotate",
    "annotation_key",
    "annotation_value",
    "apply",
    "apply_edits",
    "check",
    "combine",
    "device_name_for",
    "dumps",
    "identity_of",
    "is_qualified_name",
    "load_directories",
    "loads",
    "parse_annotations",
    "parse_qualified_name",
    "plain",
    "problems",
    "qualified_name",
    "read_spec",
    "remove_spec",
    "required_version",
    "resolve",
    "spec_file_name",
    "sweep_temporaries",
    "to_dict",
    "write_spec",
]

_PARTS = {
    "annotations": ("annotate", "annotation_key", "annotation_value", "parse_annotations"),
    "application": ("apply", "apply_edits"),
    "cache": (
        "DEFAULT_DIRECTORIES",
        "EXTENSIONS",
        "Cache",
        "LoadedDevice",
        "LoadedSpec",
        "load_directories",
        "read_spec",
    ),
    "codec": ("dumps", "loads", "to_dict"),
    "errors": ("CDIError", "Problem"),
    "model": (
        "ContainerEdits",
        "Device",
        "DeviceNode",
        "Hook",
        "IntelRdt",
        "Mount",
        "NetDevice",
        "Spec",
    ),
    "names": (
        "QualifiedName",
        "device_name_for",
        "identity_of",
        "is_qualified_name",
        "parse_qualified_name",
        "qualified_name",
    ),
    "resolution": ("UnresolvableError", "combine", "resolve"),
    "schema": ("plain",),
    "validation": ("check", "problems"),
    "versions": ("CURRENT", "RELEASED", "required_version"),
    "writer": ("remove_spec", "spec_file_name", "sweep_temporaries", "write_spec"),
}
_HOMES = {name: part for part, names in _PARTS.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, loaded now."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
