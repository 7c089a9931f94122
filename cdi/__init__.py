"""The Container Device Interface: a library in its own right.

Values (`Spec`, `Device`, `ContainerEdits`, ...) are frozen. `dumps` and `loads` are the file,
`problems` and `check` its rules, `write_spec` puts it where runtimes notice, `load_directories`
reads what a runtime reads, `resolve` and `apply` do what a runtime does with it. Errors are
`CDIError`, with every problem by file, field, value and rule.
"""

from deviceplugin.cdi.annotations import (
    annotate,
    annotation_key,
    annotation_value,
    parse_annotations,
)
from deviceplugin.cdi.apply import apply, apply_edits
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
from deviceplugin.cdi.resolve import UnresolvableError, combine, resolve
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
