"""What the runtime holds of the system's memory: caches no more than was written, and nothing that loading freed."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sottovoce.devices.memory import read_mappings
from sottovoce.runtime.cache import fresh_zeros
from sottovoce.runtime.memory import give_back, untouched

MEGABYTE = 1 << 20

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def held() -> int:
    """Bytes of this process that no file is behind, and those shared with none."""
    found = read_mappings(Path("/nowhere"))
    assert found
    return found.anonymous + found.files


@linux
def test_a_cache_holds_what_was_written_to_however_many_there_were() -> None:
    shape = (24, 1, 2, 1024, 128)
    for _ in range(4):  # a general allocator begins to reuse memory of this size at the third
        buffers = fresh_zeros(shape, np.dtype(np.float32))
        buffers += 1
        del buffers
    before = held()
    buffers = fresh_zeros(shape, np.dtype(np.float32))
    assert buffers.nbytes == 24 * MEGABYTE
    assert not buffers.any()
    assert held() - before < 4 * MEGABYTE
    buffers[:12] = 1
    assert 11 * MEGABYTE < held() - before < 16 * MEGABYTE
    del buffers
    assert held() - before < 4 * MEGABYTE


@linux
def test_freed_memory_goes_back() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    blocks = [libc.malloc(1 << 16) for _ in range(640)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 16)
    for block in blocks[:-1]:  # the last keeps the allocator from shrinking its heap
        libc.free(block)
    before = held()
    give_back(Path("/nowhere"))
    assert before - held() > 30 * MEGABYTE
    libc.free(blocks[-1])


FREE = """
import ctypes, sys
from pathlib import Path
from sottovoce.devices.memory import read_mappings
from sottovoce.runtime.memory import keep_apart
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.free(libc.malloc(16 << 20))  # from here on glibc has smaller pieces on its heap
if sys.argv[1] == "apart":
    keep_apart()
blocks = [libc.malloc(2 << 20) for _ in range(20)]
for block in blocks:
    ctypes.memset(block, 1, 2 << 20)
before = read_mappings(Path("/nowhere")).anonymous
for block in blocks[:-1]:
    libc.free(block)
print(before - read_mappings(Path("/nowhere")).anonymous)
"""


@linux
@pytest.mark.parametrize(("way", "goes_back"), [("apart", True), ("heap", False)])
def test_large_pieces_go_back_as_they_are_freed(way: str, goes_back: bool) -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FREE, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (int(done.stdout) > 36 * MEGABYTE) is goes_back


@linux
def test_pages_of_files_go_back_but_those_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the engine maps weights: privately, to be written to. Beside other threads, which another test may have left,
    all stay."""
    size, maps = 4 * MEGABYTE, []
    for name in ("read.data", "written.data"):
        (tmp_path / name).write_bytes(b"\1" * size)
        with (tmp_path / name).open("r+b") as file:
            maps.append(mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    read, written = maps
    written[5] = 2
    assert sum(read[:: mmap.PAGESIZE]) == sum(written[:: mmap.PAGESIZE]) == size // mmap.PAGESIZE
    held = []
    for threads in (2, 1):
        monkeypatch.setattr("threading.active_count", lambda threads=threads: threads)
        give_back(tmp_path)
        found = read_mappings(tmp_path)
        assert found
        held.append(found.bundle)
    assert held[0] >= 2 * size - mmap.PAGESIZE
    assert held[0] - held[1] == size
    assert written[5] == 2
    assert sum(read[:: mmap.PAGESIZE]) == size // mmap.PAGESIZE  # and come again


def test_what_was_written_to_is_known_wherever_it_lies() -> None:
    """As /proc/self/smaps tells: in memory, swapped out, of another file, of a folder further down."""

    def mapping(place: int, path: str, anonymous: int, swap: int) -> str:
        head = f"{place:x}000-{place + 1:x}000 rw-p 00000000 08:01 123    {path}"
        return f"{head}\nRss: 4 kB\nAnonymous: {anonymous} kB\nKSM: 0 kB\nSwap: {swap} kB\nSwapPss: 0 kB\n"

    text = "".join(
        (
            mapping(1, "/b/decoder.onnx.data", 0, 0),
            mapping(2, "/b/decoder.onnx.data", 4, 0),
            mapping(3, "/b/decoder.onnx.data", 0, 4),
            mapping(4, "/b/.venv/lib.so", 0, 0),
            mapping(5, "/b/c/decoder.onnx.data", 0, 0),
            mapping(6, "", 0, 0),
            mapping(7, "/b/prefill.onnx.data", 0, 0),
        )
    )
    assert list(untouched(text, Path("/b"))) == [(0x1000, 0x1000), (0x7000, 0x1000)]
