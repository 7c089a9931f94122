"""The installer on hosts as they are: fresh, older, damaged, hostile, and cut off at any step."""

from __future__ import annotations

import base64
import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deviceplugin.hook import install as installer
from deviceplugin.hook.install import InstallError
from deviceplugin.hook.names import chosen
from deviceplugin.testing.elf import shared_object


def test_a_fresh_host_gets_everything_that_containers_mount(host) -> None:
    data = host.offer("v2.8.0")
    outcome = host.install()
    assert outcome.status.right, outcome.status.troubles
    assert host.link.read_bytes() == data
    assert host.link.readlink() == Path(outcome.name)
    assert outcome.name.startswith("libvgpu.so.v2.8.0-")
    assert (host.directory / "ld.so.preload").read_bytes() == b"/usr/local/vgpu/libvgpu.so"
    modes = {
        name: (host.directory / name).stat().st_mode & 0o7777
        for name in (outcome.name, "ld.so.preload", "containers")
    }
    assert modes == {outcome.name: 0o755, "ld.so.preload": 0o644, "containers": 0o755}
    assert (host.root / "tmp/vgpulock").stat().st_mode & 0o7777 == 0o777


def test_a_strict_umask_changes_no_mode(host) -> None:
    host.offer("v2.8.0")
    before = os.umask(0o077)
    try:
        assert host.install().status.right
    finally:
        os.umask(before)
    assert host.directory.stat().st_mode & 0o777 == 0o755
    assert (host.root / "tmp/vgpulock").stat().st_mode & 0o777 == 0o777


def test_a_second_run_changes_nothing(host) -> None:
    host.offer("v2.8.0")
    host.install()
    before = {path.name: path.lstat().st_mtime_ns for path in host.directory.iterdir()}
    assert host.install().steps == ()
    assert before == {path.name: path.lstat().st_mtime_ns for path in host.directory.iterdir()}


def test_a_dry_run_tells_the_steps_and_touches_nothing(host) -> None:
    host.offer("v2.8.0")
    told = host.install(dry_run=True)
    assert not host.directory.exists()
    assert told.steps == host.install().steps


def test_a_mapped_library_never_changes(host) -> None:
    old = host.offer("v2.8.0")
    first = host.install()
    with (host.directory / first.name).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    host.offer("v2.8.0", "the same version, built again")
    second = host.install()
    assert second.name != first.name
    assert mapped[:] == old
    assert (host.directory / first.name).read_bytes() == old
    assert host.link.readlink() == Path(second.name)


def test_a_plain_library_of_others_is_replaced_and_not_written_to(host) -> None:
    host.directory.mkdir()
    theirs = shared_object("theirs")
    host.link.write_bytes(theirs)
    (host.directory / "libvgpu.so.v2.7.0").write_bytes(theirs)
    with host.link.open("rb") as held:
        host.offer("v2.8.0")
        assert host.install().status.right
        assert held.read() == theirs
    assert host.link.is_symlink()
    assert (host.directory / "libvgpu.so.v2.7.0").read_bytes() == theirs


def test_a_damaged_library_is_replaced_by_a_new_file(host) -> None:
    data = host.offer("v2.8.0")
    name = host.install().name
    damaged = host.directory / name
    damaged.write_bytes(data[:100])
    inode = damaged.stat().st_ino
    assert {t.slug for t in host.status().troubles} == {"library-broken"}
    assert host.install().status.right
    assert damaged.read_bytes() == data
    assert damaged.stat().st_ino != inode


def test_another_preload_file_is_replaced(host) -> None:
    host.directory.mkdir()
    (host.directory / "ld.so.preload").write_text("/other.so\n")
    host.offer("v2.8.0")
    assert [t.slug for t in host.status().troubles if t.slug.startswith("preload")] == [
        "preload-wrong"
    ]
    host.install()
    assert (host.directory / "ld.so.preload").read_text() == "/usr/local/vgpu/libvgpu.so"


def test_a_license_comes_with_its_validator(host) -> None:
    host.offer("v2.8.0")
    (host.source / "license").write_text("ours")
    with pytest.raises(InstallError, match="license without a vgpuvalidator"):
        host.take()
    (host.source / "vgpuvalidator").write_bytes(b"\x7fELF")
    steps = [getattr(step, "name", "") for step in host.install().steps]
    assert steps.index("vgpuvalidator") < steps.index("license")
    assert (host.directory / "vgpuvalidator").stat().st_mode & 0o777 == 0o755


# --- what is refused ---


def test_an_unknown_library_is_refused_with_the_entry_to_write(host) -> None:
    host.offer("v2.8.0", known=False)
    with pytest.raises(InstallError) as caught:
        host.take()
    text = str(caught.value)
    assert "no manifest knows this library" in text
    assert '"version": "v2.8.0"' in text
    assert "its name is that of HAMi v2.8.0" in text
    outcome = host.install(allow_unknown=True)
    assert [t.slug for t in outcome.status.troubles] == ["library-unknown"]
    assert not outcome.status.troubles[0].fatal


def test_a_library_of_another_machine_is_refused_also_when_unknown_is_allowed(host):
    (host.source / "libvgpu.so").write_bytes(shared_object("x", "aarch64"))
    with pytest.raises(InstallError, match="built for aarch64"):
        host.take(allow_unknown=True)


@pytest.mark.parametrize("names", [(), ("libvgpu.so", "libvgpu.so.v2.8.0")])
def test_a_source_without_exactly_one_library_is_refused(host, names: tuple[str, ...]) -> None:
    for name in names:
        (host.source / name).write_bytes(b"x")
    with pytest.raises(InstallError, match="has several libraries" if names else "has no libvgpu"):
        host.take()


def test_a_directory_that_a_runtime_made_in_the_librarys_place_is_explained(host) -> None:
    (host.directory / "libvgpu.so").mkdir(parents=True)
    host.offer("v2.8.0")
    with pytest.raises(InstallError, match=r"libvgpu.so is a directory"):
        host.install()
    assert "a runtime made it" in host.status().troubles[0].what


def test_links_in_the_place_of_files_are_refused(host, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    host.directory.mkdir()
    (host.directory / "ld.so.preload").symlink_to(victim)
    host.offer("v2.8.0")
    with pytest.raises(InstallError, match=r"ld\.so\.preload is a symbolic link"):
        host.install()
    assert victim.read_text() == "precious"


def test_links_below_the_root_stay_below_it(host, tmp_path: Path) -> None:
    (host.root / "usr/local").rmdir()
    (host.root / "usr/local").symlink_to("/var/usrlocal")
    (host.root / "var/usrlocal").mkdir()
    host.offer("v2.8.0")
    assert host.install().status.right
    assert (host.root / "var/usrlocal/vgpu/libvgpu.so").is_symlink()
    assert not (host.root / "usr/local").resolve().exists()


def test_a_link_out_of_the_root_does_not_lead_out(host, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (host.root / "usr/local").rmdir()
    (host.root / "usr/local").symlink_to("../../outside")
    host.offer("v2.8.0")
    host.install()
    assert list(outside.iterdir()) == []
    assert (host.root / "outside/vgpu/libvgpu.so").is_symlink()


def test_endless_links_end(host) -> None:
    (host.root / "usr/local").rmdir()
    (host.root / "usr/local").symlink_to("local")
    host.offer("v2.8.0")
    with pytest.raises(InstallError, match="too many symbolic links"):
        host.install()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_others_own_is_refused(host) -> None:
    host.offer("v2.8.0")
    (host.root / "tmp/vgpulock").mkdir()
    os.chown(host.root / "tmp/vgpulock", 1000, 1000)
    with pytest.raises(InstallError, match="belongs to user 1000"):
        host.install()
    (host.root / "tmp/vgpulock").rmdir()
    (host.root / "tmp/vgpulock").symlink_to("/usr")
    os.lchown(host.root / "tmp/vgpulock", 1000, 1000)
    with pytest.raises(InstallError, match="symbolic link that user 1000 made"):
        host.install()
    assert (host.root / "usr").stat().st_mode & 0o002 == 0


def test_a_directory_that_others_may_write_to_is_trouble(host) -> None:
    host.offer("v2.8.0")
    host.install()
    host.directory.chmod(0o777)
    assert [t.slug for t in host.status().troubles] == ["library-place"]


def test_two_installers_do_not_meet(host) -> None:
    host.offer("v2.8.0")
    host.install()
    descriptor = os.open(host.directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(InstallError, match="another installer"):
            host.install()
    finally:
        os.close(descriptor)


# --- cut off at every step ---

CALLS = ("open", "mkdir", "fchmod", "fsync", "rename", "symlink", "unlink")


class Fault:
    """Lets so many calls of the system through and fails all later ones, as a full disk or a
    killed process would: nothing after it happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        self.hit = False
        for name in CALLS:
            monkeypatch.setattr(installer.os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self.left <= 0:
                self.hit = True
                raise OSError(28, "No space left on device")
            self.left -= 1
            return real(*arguments, **named)

        return call


def test_wherever_it_is_cut_off_containers_get_a_whole_library(host) -> None:
    old = host.offer("v2.8.0")
    host.install()
    new = host.offer("v2.8.1")
    after = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, after)
            try:
                host.install()
            except InstallError as error:
                assert "No space left" in str(error)
        if not fault.hit:
            break
        assert host.link.read_bytes() in (old, new)
        assert (host.directory / "ld.so.preload").read_text() == "/usr/local/vgpu/libvgpu.so"
        assert [t.slug for t in host.status().troubles if t.fatal] == []
        after += 1
    assert after > 8
    assert host.link.read_bytes() == new
    assert not [name for name in host.files() if name.startswith(".hook-")]


def test_a_refusal_names_the_step_that_was_refused(host, monkeypatch) -> None:
    host.offer("v2.8.0")
    (host.root / "tmp/vgpulock").mkdir(mode=0o755)
    host.directory.mkdir()
    (host.directory / "containers").mkdir()

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(installer.os, "fchmod", read_only)
    with pytest.raises(InstallError, match="directory /tmp/vgpulock, mode 777: the system refuses"):
        host.install()


# --- what goes, and what stays ---


def upgrade(host) -> str:
    """From v2.8.0 to v2.8.1, long enough ago; answers the former file's name."""
    host.offer("v2.8.0")
    former = host.install().name
    host.offer("v2.8.1")
    outcome = host.install()
    assert [(item.name, item.reason) for item in outcome.kept] == [(former, "superseded just now")]
    return former


def test_a_former_library_goes_once_nobody_needs_it(host) -> None:
    former = upgrade(host)
    host.age(60)
    assert "less than ten minutes" in host.install().kept[0].reason
    host.age()
    outcome = host.install()
    assert [str(step) for step in outcome.steps] == [f"removal of {former}"]
    assert former not in host.files()
    assert outcome.status.right


def kept_because(host, former: str) -> str:
    host.age()
    outcome = host.install()
    assert former in host.files()
    (kept,) = outcome.kept
    assert kept.name == former
    return kept.reason


def test_it_stays_while_a_process_maps_it(host) -> None:
    former = upgrade(host)
    inode = (host.directory / former).stat().st_ino
    process = host.process(77, f"7f0-7f1 r-xp 0 00:2f {inode} /usr/local/vgpu/libvgpu.so\n")
    assert kept_because(host, former) == "mapped by process 77"
    for path in process.iterdir():
        path.unlink()
    process.rmdir()
    assert host.install().kept == ()


def test_it_stays_while_a_container_has_it_mounted(host) -> None:
    former = upgrade(host)
    host.process(78, mountinfo=f"9 8 0:1 /usr/local/vgpu/{former} /usr/local/vgpu/libvgpu.so ro\n")
    assert kept_because(host, former) == "mounted for process 78"


def test_it_stays_while_kubelet_would_mount_it_again(host) -> None:
    former = upgrade(host)
    host.remember(
        {
            "PodUID": "u-1",
            "ContainerName": "main",
            "ResourceName": "nvidia.com/gpu",
            "DeviceIDs": {"0": ["GPU-1-0"]},
            "AllocResp": base64.b64encode(b"\x12" + former.encode()).decode(),
        }
    )
    assert kept_because(host, former) == "promised to container main of pod u-1"


def test_it_stays_while_a_cdi_specification_names_it(host) -> None:
    former = upgrade(host)
    spec = host.root / "var/run/cdi/x.json"
    spec.write_text(f'{{"hostPath": "/usr/local/vgpu/{former}"}}')
    assert kept_because(host, former) == f"named by {spec}"


@pytest.mark.parametrize(
    ("blinded", "says"),
    [
        ("proc/2/comm", "does not show the host's processes"),
        ("var/lib/kubelet/device-plugins", "cannot be seen from here"),
    ],
)
def test_it_stays_when_nobody_can_tell(host, blinded: str, says: str) -> None:
    former = upgrade(host)
    (host.root / blinded).rename(host.root / "away")
    assert says in kept_because(host, former)


def test_it_stays_when_kubelets_record_is_damaged(host) -> None:
    former = upgrade(host)
    host.remember()
    (host.root / "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint").write_text("{")
    assert "cannot be read" in kept_because(host, former)


def test_it_stays_when_a_process_hides(host) -> None:
    former = upgrade(host)
    (host.process(79) / "maps").unlink()
    (host.root / "proc/79/maps").mkdir()  # reading it fails otherwise than for an ended process
    assert "process 79 cannot be looked into" in kept_because(host, former)


def test_libraries_of_others_never_go(host) -> None:
    former = upgrade(host)
    (host.directory / "libvgpu.so.v2.7.0").write_bytes(shared_object("theirs"))
    host.age()
    host.install()
    assert former not in host.files()
    assert "libvgpu.so.v2.7.0" in host.files()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_real_mapping_is_seen_in_the_real_proc(host) -> None:
    former = upgrade(host)
    path = host.directory / former
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    with path.open("rb") as file:
        address = libc.mmap(None, 100, mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), 0)
        assert address
    place = host.root / "proc/80"
    place.mkdir()
    (place / "maps").write_bytes(Path("/proc/self/maps").read_bytes())
    (place / "mountinfo").write_text("")
    assert kept_because(host, former) == "mapped by process 80"


# --- which library containers get ---


@pytest.mark.parametrize(
    ("present", "link", "expected"),
    [
        (
            ["libvgpu.so.v2.9.0-aaaaaaaaaaaa", "libvgpu.so.v2.8.0-bbbbbbbbbbbb"],
            "libvgpu.so.v2.8.0-bbbbbbbbbbbb",
            "libvgpu.so.v2.8.0-bbbbbbbbbbbb",
        ),
        (["libvgpu.so.v2.8.0", "libvgpu.so.v2.10.0"], "", "libvgpu.so.v2.10.0"),
        (["libvgpu.so", "libvgpu.so.v2.8.0"], "", "libvgpu.so.v2.8.0"),
        (["libvgpu.so"], "", "libvgpu.so"),
        (["libvgpu.so.v2.8.0"], "gone", ""),
        ([], "", ""),
    ],
)
def test_the_link_decides_and_else_the_highest_version(
    present: list[str], link: str, expected: str
) -> None:
    assert chosen(present, link) == expected
