"""Virtual DCUs: what is taken, what the files say, and when they go
(metax-iluvatar-kunlunxin-hygon.md 4.6).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.vendor import DriverError
from deviceplugin.vendors.hygon.configuration import Configuration
from deviceplugin.vendors.hygon.vdev import (
    ExhaustedError,
    Vdev,
    allocated,
    lowest,
    parsed,
    part,
    units_of,
)
from deviceplugin.vendors.hygon.vdevfiles import ASIDE, VdevFiles

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
        "apart": [],
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
    vdev = allocated("u", "c", 0, units, 120, (), ())
    assert vdev.name == f"u_c_0_0_0_{low}_{high}"


def test_the_file_is_that_of_the_driver_to_the_letter() -> None:
    vdev = allocated("u", "c", 3, units_of(15, 60), 60, (), ())
    assert vdev.file("0000:33:00.0", 2000, 0) == GOLDEN
    assert vdev.file("0000:33:00.0", 2000, 3) == GOLDEN.replace("device_id: 0", "device_id: 3")
    assert vdev.file("0001:ab:1f.7", 1, 0).startswith("PciBusId: 0001:AB:1F.7\n")


def test_two_single_units_are_not_the_same_unit() -> None:
    first = allocated("u", "c", 0, 1, 60, (), ())
    second = allocated("v", "c", 0, 1, 60, [first], [first.vdev])
    assert (first.mask, second.mask) == (1, 2)
    assert (second.pipe, second.vdev) == (1, 1)


def test_gaps_are_filled_lowest_first() -> None:
    assert lowest(4, 120, 0b1011) == 0b1110100
    assert lowest(2, 128, (1 << 63) - 1) == 0b11 << 63


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3)), max_size=60))
def test_no_two_containers_ever_share_a_unit_a_pipe_or_a_number(
    steps: list[tuple[bool, int, int]],
) -> None:
    living: list[Vdev] = []
    for number, (add, units, card) in enumerate(steps):
        if not add and living:
            living.pop(units % len(living))
            continue
        beside = [v for v in living if v.card == card]
        try:
            vdev = allocated(f"u{number}", "c", card, units, 120, beside, [v.vdev for v in living])
        except ExhaustedError:
            assert sum(v.mask.bit_count() for v in beside) + units > 120 or len(beside) == 20
            continue
        assert vdev.mask.bit_count() == units
        assert all(vdev.mask & other.mask == 0 for other in beside)
        assert vdev.pipe == min(set(range(20)) - {other.pipe for other in beside})
        assert vdev.vdev == min(set(range(200)) - {other.vdev for other in living})
        assert vdev.mask == lowest(units, 120, _union([other.mask for other in beside]))
        living.append(vdev)


def _union(masks: list[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 15), st.integers(1, 128))
def test_a_directorys_name_says_everything(
    holder: str, container: str, card: int, units: int
) -> None:
    vdev = allocated(holder, part(container), card, units, 128, (), ())
    assert parsed(vdev.name) == vdev
    assert "/" not in vdev.name
    assert len(vdev.name) < 256


@pytest.mark.parametrize(
    ("taken", "said"),
    [({"pipes": range(20)}, "no free pipe: all 20"), ({"numbers": range(200)}, "all 200")],
)
def test_pipes_and_numbers_end(taken: dict[str, range], said: str) -> None:
    beside = [Vdev("u", "c", 0, pipe, pipe, 0) for pipe in taken.get("pipes", ())]
    with pytest.raises(ExhaustedError, match=said):
        allocated("v", "c", 0, 1, 120, beside, taken.get("numbers", ()))


@pytest.mark.parametrize("name", ["", "x", "a_b_0_0_0_zz_ff", "..", "a_b_0_0_0_" + "0" * 16])
def test_another_directory_is_none_of_ours(name: str) -> None:
    assert parsed(name) is None


def test_one_more_unit_than_is_free_is_refused_with_the_figures() -> None:
    with pytest.raises(ExhaustedError, match="3 compute units are asked for, 2 of 10 are free"):
        lowest(3, 10, 0xFF)


# --- the files ------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> VdevFiles:
    return VdevFiles(str(tmp_path), Configuration())


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


def mask_of(path: str) -> int:
    vdev = parsed(Path(path).name)
    assert vdev is not None
    return vdev.mask


def test_a_virtual_dcu_is_a_directory_and_a_copy(files: VdevFiles, tmp_path: Path) -> None:
    path = files.make(request())
    assert path == f"/usr/local/vgpu/dcu/uid-1_main_0_0_0_{'0' * 13}1ff_{'0' * 16}"
    directory = tmp_path / path.lstrip("/")
    assert directory.stat().st_mode & 0o777 == 0o777
    assert [entry.name for entry in directory.iterdir()] == ["vdev0.conf"]
    assert (directory / "vdev0.conf").read_text() == GOLDEN
    assert (directory / "vdev0.conf").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "etc/vdev/vdev0.conf").read_text() == GOLDEN


def test_the_copy_says_the_real_index_and_the_container_sees_0(
    files: VdevFiles, tmp_path: Path
) -> None:
    path = files.make(request(card=3))
    assert "_3_0_0_" in path
    assert "device_id: 3\n" in (tmp_path / "etc/vdev/vdev0.conf").read_text()
    assert (tmp_path / path.lstrip("/") / "vdev0.conf").read_text() == GOLDEN


def test_a_container_that_starts_again_finds_its_own(files: VdevFiles, tmp_path: Path) -> None:
    first = files.make(request())
    files.make(request("uid-2"))
    (tmp_path / "etc/vdev/vdev0.conf").unlink()
    assert files.make(request()) == first
    assert (tmp_path / "etc/vdev/vdev0.conf").read_text() == GOLDEN
    assert len(directories(tmp_path)) == 2


@pytest.mark.parametrize("ruin", ["text", "link", "gone", "pipe", "directory"])
def test_what_a_tenant_did_to_its_file_is_undone_where_it_was_told_to_look(
    files: VdevFiles, tmp_path: Path, ruin: str
) -> None:
    """Another directory would not do: the answer to Allocate names this one. Nor is anything of the
    tenant's opened: a pipe would never answer, and a link may lead anywhere.
    """
    first = files.make(request("uid-0"))
    path = files.make(request())
    files.tidy([held("uid-1")])
    assert not (tmp_path / first.lstrip("/")).exists()
    file = tmp_path / path.lstrip("/") / "vdev0.conf"
    file.unlink()
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    match ruin:
        case "text":
            file.write_text(GOLDEN.replace("2000", "60000"))
        case "link":
            file.symlink_to(secret)
        case "pipe":
            os.mkfifo(file)
        case "directory":
            (file / "deep").mkdir(parents=True)
    assert files.make(request()) == path
    assert not file.is_symlink()
    assert "mem: 2000 MiB\ndevice_id: 0\nvdev_id: 1\n" in file.read_text()
    assert secret.read_text() == "untouched"


def test_other_shares_of_the_same_container_replace_the_old(
    files: VdevFiles, tmp_path: Path
) -> None:
    files.make(request())
    path = files.make(request(units=18))
    assert directories(tmp_path) == [Path(path).name]
    assert mask_of(path) == (1 << 18) - 1


def test_a_full_card_is_refused_with_the_card_and_the_remedy(files: VdevFiles) -> None:
    files.make(request(units=60))
    with pytest.raises(
        DriverError, match=r"no virtual DCU can be made on DCU-1: 9 compute units .* 0 of 60"
    ):
        files.make(request("uid-2"))
    files.make(request("uid-2", card=1, address="0000:34:00.0"))


def test_the_place_of_a_card_counts_and_not_its_index(files: VdevFiles, tmp_path: Path) -> None:
    """A card that drops out gives the others new indices, while their containers run."""
    before = files.make(request(card=1, address="0000:34:00.0"))
    beside = files.make(request("uid-2", card=0, address="0000:34:00.0"))
    assert mask_of(before) & mask_of(beside) == 0
    assert files.make(request(card=0, address="0000:34:00.0")) == before
    assert "device_id: 0\n" in (tmp_path / "etc/vdev/vdev0.conf").read_text()
    other = files.make(request("uid-3", card=1, address="0000:35:00.0"))
    assert mask_of(other) == 0x1FF


def test_without_a_copy_the_index_of_the_name_counts(files: VdevFiles, tmp_path: Path) -> None:
    first = files.make(request())
    (tmp_path / "etc/vdev/vdev0.conf").unlink()
    assert mask_of(files.make(request("uid-2"))) & mask_of(first) == 0


def test_files_of_strangers_are_left_alone(files: VdevFiles, tmp_path: Path) -> None:
    root, copies = tmp_path / "usr/local/vgpu/dcu", tmp_path / "etc/vdev"
    (root / "somebodys").mkdir(parents=True)
    copies.mkdir(parents=True)
    (copies / "vdev0.conf").write_text("theirs")
    path = files.make(request())
    assert "_0_0_1_" in path
    files.tidy([])
    assert directories(tmp_path) == ["somebodys"]
    assert [file.read_text() for file in copies.iterdir()] == ["theirs"]


def test_an_init_container_and_those_after_it_use_the_same_units(files: VdevFiles) -> None:
    """They never run at once, and schedulers give both the same room; other pods are told apart
    from either.
    """
    first = files.make(request(container="init", units=40, apart=["main"]))
    second = files.make(request(container="main", units=50, apart=["init"]))
    assert (mask_of(first), mask_of(second)) == ((1 << 40) - 1, (1 << 50) - 1)
    third = files.make(request("uid-2", container="main", units=10, apart=["init"]))
    assert mask_of(third) == ((1 << 10) - 1) << 50


def test_a_half_made_directory_is_no_virtual_dcu_and_goes(files: VdevFiles, tmp_path: Path) -> None:
    half = tmp_path / "usr/local/vgpu/dcu" / f"{ASIDE}x"
    half.mkdir(parents=True)
    (half / "vdev0.conf").write_text("half")
    assert files.all() == {}
    path = files.make(request())
    files.tidy([held("uid-1")])
    assert directories(tmp_path) == [Path(path).name]


def test_a_disk_that_is_full_leaves_nothing_that_looks_whole(
    files: VdevFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.NamedTemporaryFile", full)
        with pytest.raises(OSError, match="No space left"):
            files.make(request())
    assert files.all() == {}
    assert "_0_0_0_" in files.make(request())


def test_those_of_nobody_go_and_all_others_stay(files: VdevFiles, tmp_path: Path) -> None:
    for holder in ("uid-1", "uid-2", "alloc-3"):
        files.make(request(holder))
    removed = files.tidy([held("uid-1", pod="p"), held("uid-9", "alloc-3", "q")])
    assert removed == ["virtual DCU 1 of card 0, of uid-2"]
    assert [v.holder for v in files.all().values()] == ["alloc-3", "uid-1"]
    assert sorted(p.name for p in (tmp_path / "etc/vdev").iterdir()) == ["vdev0.conf", "vdev2.conf"]
    assert "_0_1_1_" in files.make(request("uid-4"))
    assert len(files.tidy([])) == 3
    assert directories(tmp_path) == []


def test_while_a_pod_is_unknown_nothing_goes(files: VdevFiles) -> None:
    files.make(request())
    assert files.tidy([held("uid-2", pod="other"), held(pod="somebody")]) == []
    assert files.all()


def test_one_that_cannot_be_removed_keeps_no_other(
    files: VdevFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for holder in ("uid-1", "uid-2"):
        files.make(request(holder))
    rename = Path.rename

    def stuck(self: Path, target: Path) -> Path:
        if self.name.startswith("uid-1"):
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stuck)
    told = files.tidy([])
    assert told == [
        "virtual DCU 0 of card 0, of uid-1 stays: [Errno 16] Device or resource busy",
        "virtual DCU 1 of card 0, of uid-2",
    ]
    assert [v.holder for v in files.all().values()] == ["uid-1"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 5), st.integers(1, 70)),
        st.tuples(st.just("tidy"), st.integers(0, 63), st.just(0)),
        st.tuples(st.just("renumber"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS)
def test_whatever_happens_no_unit_of_a_card_has_two_containers(
    steps: list[tuple[str, int, int]],
) -> None:
    """Made, made again, removed and restarted on two cards that swap their indices."""
    places = ["0000:33:00.0", "0000:34:00.0"]
    with tempfile.TemporaryDirectory() as root:
        shown: dict[int, str] = {}
        for action, number, units in steps:
            files = VdevFiles(root, Configuration())  # nothing but the files remembers anything
            if action == "renumber":
                places.reverse()
                continue
            if action == "tidy":
                kept = [i for i in range(6) if number >> i & 1]
                files.tidy([held(f"uid-{i}") for i in kept])
                shown = {i: path for i, path in shown.items() if i in kept}
                continue
            place = ["0000:33:00.0", "0000:34:00.0"][number % 2]
            asked = request(
                f"uid-{number}", card=places.index(place), address=place, units=units, of=120
            )
            same = number in shown and mask_of(shown[number]).bit_count() == units
            try:
                path = files.make(asked)
            except DriverError:
                shown.pop(number, None)
                continue
            assert not same or path == shown[number]
            shown[number] = path
            for parity in (0, 1):
                masks = [mask_of(path) for i, path in shown.items() if i % 2 == parity]
                assert sum(mask.bit_count() for mask in masks) == _union(masks).bit_count()
            assert sorted(files.all()) == sorted(Path(path).name for path in shown.values())
            copies = [path.name for path in (Path(root) / "etc/vdev").iterdir()]
            assert len(copies) == len(shown)
