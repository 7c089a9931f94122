"""The host's files below a root: links mean what they mean on the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deviceplugin.doctor.files import MAX_BYTES, HostFiles


@pytest.fixture
def host(tmp_path: Path) -> HostFiles:
    root = tmp_path / "host"
    (root / "etc").mkdir(parents=True)
    (root / "etc/name").write_text("host\n")
    (tmp_path / "secret").write_text("ours\n")
    return HostFiles(root)


def test_an_absolute_link_leads_to_the_hosts_file(host: HostFiles) -> None:
    (host.root / "link").symlink_to("/etc/name")
    assert host.read("/link") == "host\n"


def test_a_link_upwards_ends_at_the_hosts_root(host: HostFiles, tmp_path: Path) -> None:
    (host.root / "up").symlink_to("../../../../secret")
    (host.root / "away").symlink_to(str(tmp_path / "secret"))
    assert host.read("/up") is None
    assert host.read("/away") is None
    assert host.read("/../../secret") is None
    (host.root / "secret").write_text("host's own\n")
    assert host.read("/up") == "host's own\n"


def test_a_linked_directory_is_followed(host: HostFiles) -> None:
    (host.root / "var").mkdir()
    (host.root / "run").mkdir()
    (host.root / "var/run").symlink_to("/run")
    (host.root / "run/pid").write_text("7")
    assert host.names("/var/run") == ("pid",)
    assert host.number("/var/run/pid") == 7


def test_a_circle_of_links_is_not_there(host: HostFiles) -> None:
    (host.root / "a").symlink_to("/b")
    (host.root / "b").symlink_to("/a")
    assert not host.exists("/a")
    assert host.names("/a") == ()


def test_what_is_no_regular_file_is_not_read(host: HostFiles) -> None:
    os.mkfifo(host.root / "pipe")  # reading it would never end
    assert host.read("/pipe") is None
    assert host.read("/etc") is None
    assert host.read("/none") is None
    assert host.names("/etc/name") == ()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7\n", 7),
        (" 7 ", 7),
        ("", None),
        ("-7", None),
        ("seven", None),
        ("٧", None),
        ("9" * 40, None),
    ],
)
def test_a_number_is_a_number(host: HostFiles, text: str, number: int | None) -> None:
    (host.root / "n").write_text(text)
    assert host.number("/n") == number


def test_a_huge_file_is_read_in_part_and_any_bytes_are_text(host: HostFiles) -> None:
    with (host.root / "huge").open("wb") as file:
        file.truncate(MAX_BYTES * 2)
    assert len(host.read("/huge") or "") == MAX_BYTES
    (host.root / "odd").write_bytes(b"\xff\xfeok")
    assert (host.read("/odd") or "").endswith("ok")
