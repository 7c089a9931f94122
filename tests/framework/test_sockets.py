"""Names of sockets fit, are new each time, and only our own dead ones are ever removed."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.kubelet.sockets import (
    MAX_PATH_BYTES,
    SocketPathError,
    new_socket,
    remove_stale,
)

RESOURCE = "a.b/gpu"


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(1)
    return server


def dead(path: Path) -> Path:
    listening(path).close()
    return path


@given(
    directory=st.text("abcdefgh/", max_size=90),
    resource=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
)
def test_every_name_fits_into_a_socket_address_or_the_directory_is_named(
    directory: str, resource: str
) -> None:
    try:
        path = new_socket(Path("/") / directory, resource)
    except SocketPathError as error:
        assert "too long" in str(error)
        assert len(directory) > 50
    else:
        assert len(os.fsencode(path)) <= MAX_PATH_BYTES
        assert path.parent == Path("/") / directory
        assert path.name.isascii()


def test_a_path_of_the_greatest_length_can_be_bound(directory: Path) -> None:
    path = new_socket(directory, "r" * 300 + "/gpu")
    assert len(os.fsencode(path)) == MAX_PATH_BYTES
    listening(path).close()


def test_long_names_of_two_resources_differ(directory: Path) -> None:
    names = {new_socket(directory, "r" * 200 + end).name.rpartition("-")[0] for end in ("/a", "/b")}
    assert len(names) == 2


def test_only_dead_sockets_of_this_resource_are_removed(directory: Path) -> None:
    live = new_socket(directory, RESOURCE)
    mine = dead(new_socket(directory, RESOURCE))
    others = [
        dead(new_socket(directory, f"{RESOURCE}-large")),
        dead(new_socket(directory, "c.d/gpu")),
        dead(directory / "nvidia-gpu.sock"),
        dead(directory / "deviceplugin-a.b_gpu-by-hand.sock"),
    ]
    file = directory / "deviceplugin-a.b_gpu-abc.sock"
    file.write_text("no socket")
    served = new_socket(directory, RESOURCE)
    with listening(served), listening(live):
        assert remove_stale(directory, RESOURCE, live) == [mine]
        assert {live, served, file, *others} == set(directory.iterdir())


def test_a_socket_that_is_too_busy_to_answer_is_not_dead(directory: Path) -> None:
    live, busy = new_socket(directory, RESOURCE), new_socket(directory, RESOURCE)
    with listening(busy):
        waiting = []
        for _ in range(20):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            waiting.append(client)
            if client.connect_ex(str(busy)):
                break
        assert remove_stale(directory, RESOURCE, live) == []
        for client in waiting:
            client.close()
    assert busy.is_socket()
