"""What is known, and what an operator adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deviceplugin.hook.manifest import ManifestError, load, packaged, parse

ENTRY = {"version": "v2.8.0", "machine": "x86_64", "sha256": "a" * 64}


def test_the_packaged_manifest_names_the_releases_and_is_sound() -> None:
    known = packaged()
    release = known.release("v2.8.1")
    assert release is not None
    assert (release.commit, release.layout) == ("94fff568", "1.1b")
    versions = [release.version for release in known.releases]
    assert len(set(versions)) == len(versions)


def test_a_file_adds_libraries_and_wins(tmp_path: Path) -> None:
    file = tmp_path / "more.json"
    file.write_text(json.dumps({"libraries": [ENTRY | {"image": "projecthami/hamicore@sha256:1"}]}))
    library = load([file]).library("a" * 64)
    assert library is not None
    assert (library.version, library.image) == ("v2.8.0", "projecthami/hamicore@sha256:1")
    assert load([file]).library("b" * 64) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "m: not JSON"),
        ("[" * 100_000, "m: not JSON"),
        ("[]", 'm: it has no list "libraries"'),
        ('{"libraries": {}}', 'm: it has no list "libraries"'),
        ('{"libraries": [1]}', "libraries[0]: write an object"),
        ('{"libraries": [{"sha256": 1}]}', "libraries[0]: write an object"),
        (json.dumps({"libraries": [ENTRY, ENTRY | {"md5": "1"}]}), "libraries[1]: unknown 'md5'"),
        (json.dumps({"libraries": [ENTRY | {"version": "../x"}]}), "version '../x'"),
        (json.dumps({"libraries": [ENTRY | {"machine": "riscv64"}]}), "machine 'riscv64'"),
        (json.dumps({"libraries": [ENTRY | {"sha256": "A" * 64}]}), "sha256 'AAAA"),
    ],
)
def test_a_wrong_manifest_says_where_and_what(text: str, says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text, "m")
    assert says in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"missing\.json: cannot be read"):
        load([tmp_path / "missing.json"])
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (1 << 20) + b"  ")
    with pytest.raises(ManifestError, match="larger than"):
        load([large])
