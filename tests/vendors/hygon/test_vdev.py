"""Virtual DCUs: what is taken, what the files say, and when they go
(metax-iluvatar-kunlunxin-hygon.md 4.6).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.vendor import DriverError
from deviceplugin.vendors.hygon.configuration import Configuration
from deviceplugin.vendors.hygon.vdev import ExhaustedError, Vdev, allocated, lowest, parsed, part
from deviceplugin.vendors.hygon.vdevfiles import VdevFiles

GOLDEN = """PciBusId: 0000:33:00.0
cu_mask: 0x00000000000001ff
cu_mask: 0x0000000000000000
cu_count: 9
mem: 2000 MiB
device_id: 0
vdev_id: 0
pipe_id: 0
enable: 1
"""


def request(holder: str = "uid-1", container: str = "main", **more: Any) -> dict[str, Any]:
    return {
        "uuid": "DCU-1",
        "holder": holder,
        "container": container,
        "card": 0,
        "address": "0000:33:00.0",
        "memory_mib": 2000,
        "units": 9,
        "of": 60,
        **more,
    }


@pytest.mark.parametrize(
    ("units", "low", "high"),
    [
        (6, "000000000000003f", "0" * 16),
        (18, "000000000003ffff", "0" * 16),
        (60, "0fffffffffffffff", "0" * 16),
        (72, "f" * 16, "00000000000000ff"),
    ],
)
def test_masks_on_an_empty_card(units: int, low: str, high: str) -> None:
    vdev = allocated("u", "c", 0, units, 120, ())
    assert vdev.name == f"u_c_0_0_0_{low}_{high}"


def test_the_file_is_that_of_the_driver_to_the_letter() -> None:
    vdev = allocated("u", "c", 3, 9, 60, ())
    assert vdev.file("0000:33:00.0", 2000, 0) == GOLDEN
    assert "device_id: 3\n" in vdev.file("0000:33:00.0", 2000, 3)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3)), max_size=60))
def test_no_two_containers_ever_share_a_unit_a_pipe_or_a_number(
    steps: list[tuple[bool, int, int]],
) -> None:
    living: list[Vdev] = []
    for number, (add, units, card) in enumerate(steps):
        if not add and living:
            living.pop(units % len(living))
            continue
        try:
            vdev = allocated(f"u{number}", "c", card, units, 120, living)
        except ExhaustedError:
            used = sum(v.mask.bit_count() for v in living if v.card == card)
            pipes = sum(v.card == card for v in living)
            assert used + units > 120 or pipes == 20
            continue
        assert vdev.mask.bit_count() == units
        living.append(vdev)
        for one in range(4):
            masks = [v.mask for v in living if v.card == one]
            assert sum(m.bit_count() for m in masks) == _union(masks).bit_count()
            pipes_used = [v.pipe for v in living if v.card == one]
            assert len(set(pipes_used)) == len(pipes_used)
        assert len({v.vdev for v in living}) == len(living)


def _union(masks: list[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 15), st.integers(1, 128))
def test_a_directorys_name_says_everything(
    holder: str, container: str, card: int, units: int
) -> None:
    vdev = allocated(holder, part(container), card, units, 128, ())
    assert parsed(vdev.name) == vdev
    assert "/" not in vdev.name


@pytest.mark.parametrize("name", ["", "x", "a_b_0_0_0_zz_ff", "..", "a_b_0_0_0_" + "0" * 16])
def test_another_directory_is_none_of_ours(name: str) -> None:
    assert parsed(name) is None


def test_one_more_unit_than_is_free_is_refused_with_the_figures() -> None:
    with pytest.raises(ExhaustedError, match="3 compute units are asked for, 2 of 10 are free"):
        lowest(3, 10, 0xFF)


# --- the files --------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.offset


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> VdevFiles:
    return VdevFiles(str(tmp_path), Configuration(), clock)


def directories(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "usr/local/vgpu/dcu").iterdir())


def held(pod_uid: str = "", allocation: str = "", pod: str = "") -> dict[str, str]:
    return {
        "pod_uid": pod_uid,
        "allocation": allocation,
        "pod": pod,
        "namespace": "",
        "container": "",
    }


def test_a_virtual_dcu_is_a_directory_and_a_copy(files: VdevFiles, tmp_path: Path) -> None:
    path = files.make(request())
    assert path == f"/usr/local/vgpu/dcu/uid-1_main_0_0_0_{'0' * 13}1ff_{'0' * 16}"
    directory = tmp_path / path.lstrip("/")
    assert directory.stat().st_mode & 0o777 == 0o777
    assert (directory / "vdev0.conf").read_text() == GOLDEN
    assert (tmp_path / "etc/vdev/vdev0.conf").read_text() == GOLDEN
    other = files.make(request("uid-2", card=3))
    copy = (tmp_path / "etc/vdev/vdev1.conf").read_text()
    assert "device_id: 3\n" in copy
    assert "_3_0_1_" in other


def test_a_container_that_starts_again_finds_its_own(files: VdevFiles, tmp_path: Path) -> None:
    first = files.make(request())
    files.make(request("uid-2"))
    (tmp_path / "etc/vdev/vdev0.conf").unlink()
    assert files.make(request()) == first
    assert (tmp_path / "etc/vdev/vdev0.conf").exists()
    assert len(directories(tmp_path)) == 2


@pytest.mark.parametrize("ruin", ["text", "link", "gone"])
def test_what_a_tenant_wrote_into_its_file_is_made_anew(
    files: VdevFiles, tmp_path: Path, ruin: str
) -> None:
    file = tmp_path / files.make(request()).lstrip("/") / "vdev0.conf"
    file.unlink()
    if ruin == "text":
        file.write_text(GOLDEN.replace("2000", "60000"))
    elif ruin == "link":
        (tmp_path / "secret").write_text(GOLDEN)
        file.symlink_to(tmp_path / "secret")
    again = tmp_path / files.make(request()).lstrip("/") / "vdev0.conf"
    assert not again.is_symlink()
    assert again.read_text() == GOLDEN


def test_other_shares_of_the_same_container_replace_the_old(
    files: VdevFiles, tmp_path: Path
) -> None:
    files.make(request())
    files.make(request(units=18))
    assert len(directories(tmp_path)) == 1
    assert "3ffff" in directories(tmp_path)[0]


def test_a_full_card_is_refused_with_the_card_and_the_remedy(files: VdevFiles) -> None:
    files.make(request(units=60))
    with pytest.raises(DriverError, match=r"no virtual DCU can be made on DCU-1: 9 compute units"):
        files.make(request("uid-2"))
    files.make(request("uid-2", card=1))


def test_a_half_made_directory_is_no_virtual_dcu(files: VdevFiles, tmp_path: Path) -> None:
    root = tmp_path / "usr/local/vgpu/dcu"
    root.mkdir(parents=True)
    (root / ".making-0").mkdir()
    (root / ".making-0" / "vdev0.conf").write_text("half")
    (root / "somebodys").mkdir()
    assert files.all() == {}
    files.make(request())
    assert len(files.all()) == 1
    assert (root / "somebodys").is_dir()


def test_those_of_nobody_go_and_all_others_stay(
    files: VdevFiles, tmp_path: Path, clock: Clock
) -> None:
    for holder in ("uid-1", "uid-2", "alloc-3"):
        files.make(request(holder))
    removed = files.tidy([held("uid-1", pod="p"), held("uid-9", "alloc-3", "q")])
    assert removed == ["virtual DCU 1 of card 0, of uid-2"]
    assert [v.holder for v in files.all().values()] == ["alloc-3", "uid-1"]
    assert sorted(p.name for p in (tmp_path / "etc/vdev").iterdir()) == ["vdev0.conf", "vdev2.conf"]
    assert len(files.tidy([])) == 2


def test_while_a_pod_is_unknown_nothing_goes(files: VdevFiles) -> None:
    files.make(request())
    assert files.tidy([held(pod="somebody")]) == []
    assert files.all()


def test_while_somebody_is_on_his_way_only_the_old_go(files: VdevFiles, clock: Clock) -> None:
    files.make(request())
    on_the_way = [held(allocation="a-1")]
    assert files.tidy(on_the_way) == []
    clock.offset = 700.0
    assert len(files.tidy(on_the_way)) == 1
