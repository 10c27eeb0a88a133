"""Memory readers: what the kernel prints, and what this process really holds."""

import mmap
import sys
from pathlib import Path

import pytest

from sottovoce.devices import memory

STATUS = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nVmSwap:\t  150 kB\n"
SMAPS = """7f00-7f10 r--p 00000000 08:01 123                        /bundle/decoder.onnx.data
Rss:                  40 kB
Anonymous:             4 kB
Swap:                  0 kB
7f10-7f20 rw-p 00000000 00:00 0
Rss:                   7 kB
Anonymous:             7 kB
Swap:                  2 kB
7f20-7f30 rw-p 00000000 08:01 124                        /elsewhere/decoder.onnx.data
Rss:                  90 kB
Anonymous:            30 kB
Swap:                  0 kB
VmFlags: rd mr
"""


def test_peak_counts_swapped_pages() -> None:
    reading = memory.from_proc(STATUS, "Rss: 1 kB\nPss:   120 kB\n")
    assert reading == memory.Memory(resident=200 * 1024, swapped=150 * 1024, peak=350 * 1024, proportional=120 * 1024)


def test_peak_is_the_high_water_mark_when_nothing_is_swapped() -> None:
    assert memory.from_proc(STATUS.replace("150 kB", "0 kB"), None).peak == 300 * 1024


def test_mappings_are_told_apart() -> None:
    found = memory.from_smaps(SMAPS, Path("/bundle"))
    assert found == memory.Mappings(bundle=36 * 1024, files=60 * 1024, anonymous=41 * 1024, swapped=2 * 1024)
    assert found.total == 139 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mapped_file_is_seen(tmp_path: Path) -> None:
    size = 1 << 20
    (tmp_path / "weights.data").write_bytes(bytes(size))
    before = memory.read_mappings(tmp_path)
    with (tmp_path / "weights.data").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert sum(view[::4096]) == 0
        mapped = memory.read_mappings(tmp_path)
    assert before
    assert mapped
    assert before.bundle == 0
    assert mapped.bundle == size


@pytest.mark.parametrize("read", [memory.read_memory, memory.from_getrusage])
def test_readings_follow_an_allocation(read) -> None:
    size = 64 << 20
    before = read()
    block = b"x" * size
    after = read()
    assert after.resident - before.resident > 0.9 * size
    assert after.peak - before.resident > 0.9 * size
    del block
    assert read().peak - before.resident > 0.9 * size
