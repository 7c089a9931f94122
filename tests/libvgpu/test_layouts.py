"""The tables of layouts, against a compiler and against the contract's own numbers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.libvgpu.layouts import LAYOUTS, V0, V1_1, V1_1B, V1_2, Layout, detect

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

# The structures in words of our own: what stands behind what, as the contract's table orders it.
PROGRAM = r"""
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <semaphore.h>
#define OLD 0
#define V11 1
#define V11B 2
#define V12 3
#if KIND == OLD
#define PAD(words)
#else
#define PAD(words) uint64_t padding[words];
#endif
struct memory { uint64_t context, module, data, offset, total; PAD(3) };
struct util { uint64_t dec, enc, sm; PAD(3) };
struct slot {
  int32_t pid, hostpid;
#if KIND == V11B
  uint64_t seqlock;
#endif
  struct memory used[16];
  uint64_t monitorused[16];
  struct util device_util[16];
  int32_t status;
#if KIND == V11
  uint64_t padding[3];
#elif KIND == V11B
  uint64_t padding[2];
#elif KIND == V12
  uint64_t seqlock;
  uint64_t padding[2];
#endif
};
struct region {
  int32_t initialized_flag;
#if KIND != OLD
  uint32_t major_version, minor_version;
#endif
  int32_t sm_init_flag;
  size_t owner_pid;
  sem_t sem;
#if KIND == V11B
  sem_t sem_postinit;
#endif
  uint64_t device_num;
  char uuids[16][96];
  uint64_t limit[16], sm_limit[16];
  struct slot procs[1024];
  int proc_num, utilization_switch, recent_kernel, priority;
#if KIND != OLD
  uint64_t last_kernel_time;
#endif
#if KIND == V12
  sem_t sem_postinit;
#elif KIND != OLD
  uint64_t padding[4];
#endif
};
#define R(f) printf("%s %zu\n", #f, offsetof(struct region, f))
#define S(f) printf("slot.%s %zu\n", #f, offsetof(struct slot, f))
int main(void) {
  R(sm_init_flag); R(owner_pid); R(device_num); R(uuids); R(limit); R(sm_limit); R(procs); R(proc_num);
  R(utilization_switch); R(recent_kernel); R(priority);
#if KIND != OLD
  R(last_kernel_time);
#endif
  S(used); S(monitorused); S(device_util); S(status);
#if KIND == V11B || KIND == V12
  S(seqlock);
#endif
  printf("size %zu\nslot.size %zu\nslot.memory_record %zu\nslot.util_record %zu\n", sizeof(struct region),
         sizeof(struct slot), sizeof(struct memory), sizeof(struct util));
  return 0;
}
"""


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize(("kind", "layout"), list(enumerate(LAYOUTS)))
def test_a_compiler_puts_every_field_where_the_table_says(
    tmp_path: Path, kind: int, layout: Layout
) -> None:
    source = tmp_path / "layout.c"
    source.write_text(PROGRAM)
    program = tmp_path / "layout"
    subprocess.run([str(COMPILER), f"-DKIND={kind}", "-o", program, source], check=True)
    lines = subprocess.run(
        [program], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    told = {name: int(number) for name, number in (line.split() for line in lines)}
    names = ["sm_init_flag", "owner_pid", "device_num", "uuids", "limit", "sm_limit", "procs", "proc_num",
             "utilization_switch", "recent_kernel", "priority", "last_kernel_time", "size"]  # fmt: skip
    table = {name: getattr(layout, name) for name in names}
    slot = [
        "used",
        "monitorused",
        "device_util",
        "status",
        "seqlock",
        "size",
        "memory_record",
        "util_record",
    ]
    table |= {f"slot.{name}": getattr(layout.slot, name) for name in slot}
    assert told == {name: place for name, place in table.items() if place is not None}


def test_the_table_is_the_contracts(image_of: Callable[[str], Any]) -> None:
    for layout in LAYOUTS:
        image = image_of(layout.name)
        assert layout.file_length == len(image.bytes)
        assert (layout.owner_pid, layout.device_num, layout.uuids) == (
            image.owner_pid,
            image.device_num,
            image.uuids,
        )
        assert (layout.limit, layout.sm_limit, layout.procs) == (
            image.limit,
            image.sm_limit,
            image.procs,
        )
        assert (layout.proc_num, layout.utilization_switch) == (image.proc_num, image.switch)
        assert (layout.recent_kernel, layout.priority) == (image.recent, image.priority)
        assert layout.last_kernel_time == image.last_kernel
        slot = layout.slot
        assert (slot.size, slot.seqlock, slot.used) == (image.slot_size, image.seqlock, image.used)
        assert (slot.memory_record, slot.monitorused) == (image.record, image.monitorused)
        assert (slot.device_util, slot.util_record, slot.status) == (
            image.util,
            image.util_record,
            image.status,
        )


@pytest.mark.parametrize(
    ("length", "major", "minor", "expected"),
    [
        (1197897, 0, 0, V0),
        (1197897, 1, 1, V0),  # these bytes are no version there
        (2008953, 1, 1, V1_1),
        (2008953, 1, 2, V1_2),
        (2008985, 1, 1, V1_1B),
        (2008985, 1, 2, V1_2),
        (2008953, 1, 0, None),
        (2008953, 1, 3, None),
        (2008953, 2, 1, None),
        (2008952, 1, 1, None),
        (2008954, 1, 1, None),
        (1197896, 0, 0, None),
        (1 << 40, 1, 1, None),
        (0, 0, 0, None),
    ],
)
def test_a_layout_is_known_by_length_and_version(
    length: int, major: int, minor: int, expected: Layout | None
) -> None:
    assert detect(length, major, minor) == expected
