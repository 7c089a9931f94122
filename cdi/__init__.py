"""The Container Device Interface: a library in its own right.

Values (`Spec`, `Device`, `ContainerEdits`, ...) are frozen. `dumps` and `loads` are the file,
`problems` and `check` its rules, `write_spec` puts it where runtimes notice, `load_directories`
reads what a runtime reads, `resolve` and `apply` do what a runtime does. Errors are `CDIError`,
with every problem by file, field, value and rule.
"""

from deviceplugin.cdi.annotations import annotation_key, annotation_value
from deviceplugin.cdi.apply import UnresolvableError, apply, combine, resolve
from deviceplugin.cdi.cache import DEFAULT_DIRECTORIES, Cache, load_directories, read_spec
from deviceplugin.cdi.codec import dumps, edits_to_dict, loads, to_dict
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
)
from deviceplugin.cdi.validation import check, problems
from deviceplugin.cdi.versions import CURRENT, required_version
from deviceplugin.cdi.writer import remove_spec, spec_file_name, sweep_temporaries, write_spec

__all__ = [
    "CURRENT",
    "DEFAULT_DIRECTORIES",
    "CDIError",
    "Cache",
    "ContainerEdits",
    "Device",
    "DeviceNode",
    "Hook",
    "IntelRdt",
    "Mount",
    "NetDevice",
    "Problem",
    "QualifiedName",
    "Spec",
    "UnresolvableError",
    "annotation_key",
    "annotation_value",
    "apply",
    "check",
    "combine",
    "device_name_for",
    "dumps",
    "edits_to_dict",
    "identity_of",
    "is_qualified_name",
    "load_directories",
    "loads",
    "parse_qualified_name",
    "problems",
    "read_spec",
    "remove_spec",
    "required_version",
    "resolve",
    "spec_file_name",
    "sweep_temporaries",
    "to_dict",
    "write_spec",
]
