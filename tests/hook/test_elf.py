"""Only a whole library for this machine passes."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.hook.elf import machine_of, problem
from deviceplugin.testing.elf import shared_object


def test_a_whole_library_passes() -> None:
    assert problem(shared_object("x"), "x86_64") == ""
    assert problem(shared_object("x", "aarch64"), "aarch64") == ""


def test_a_library_that_the_compiler_made_passes(tmp_path: Path) -> None:
    built = tmp_path / "some.so"
    made = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(built), "-"],
        input=b"int answer(void) { return 42; }",
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("no C compiler")
    machine = (sysconfig.get_config_var("HOST_GNU_TYPE") or "x86_64").partition("-")[0]
    assert machine_of(built.read_bytes()) == machine
    assert problem(built.read_bytes(), machine) == ""
    assert "cut short" in problem(built.read_bytes()[:-100], machine)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"machine": "aarch64"}, "built for aarch64, and this node is x86_64"),
        ({"machine": 8}, "built for machine number 8"),
        ({"kind": 2}, "no shared library"),
        ({"bits": 1}, "not a 64-bit"),
    ],
)
def test_another_kind_of_file_is_named(changes: dict[str, Any], says: str) -> None:
    assert says in problem(shared_object("x", **changes), "x86_64")


def test_every_cut_is_noticed() -> None:
    whole = shared_object("x")
    for length in range(len(whole)):
        assert problem(whole[:length], "x86_64")


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_no_file_at_all_breaks_it(data: bytes) -> None:
    assert problem(data, "x86_64")
    assert problem(b"\x7fELF" + data, "x86_64")
