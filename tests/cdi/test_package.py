"""The library as a whole: light, on its own, and every public name documented."""

from __future__ import annotations

import subprocess
import sys

import deviceplugin.cdi

CHECK = """
import sys
import deviceplugin
before = set(sys.modules)
import deviceplugin.cdi as cdi
foreign = {
    name for name in sys.modules.keys() - before
    if name.startswith("deviceplugin.") and not name.startswith("deviceplugin.cdi")
}
heavy = {"yaml", "click", "rich", "grpc", "google.protobuf"} & sys.modules.keys()
assert not foreign and not heavy, (foreign, heavy)
text = "cdiVersion: 0.3.0\\nkind: ab.com/gpu\\ndevices: [{name: d, containerEdits: {env: [A=b]}}]"
assert cdi.loads(text, yaml=True).devices[0].name == "d"
assert "yaml" in sys.modules
"""


def test_it_imports_nothing_else_of_ours_and_yaml_only_when_yaml_is_read() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True)


def test_every_public_name_is_there_and_documented() -> None:
    for name in deviceplugin.cdi.__all__:
        value = getattr(deviceplugin.cdi, name)
        if callable(value):
            assert value.__doc__, name
            assert value.__module__.startswith("deviceplugin.cdi."), name
