"""Huge pages: gathered of what is in memory, by those who may, and no longer than they were given."""

import ctypes
import mmap
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from sottovoce.runtime import pages
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.pages import full, gather, huge_page

HUGE = huge_page()
PAGES = 24

linux = pytest.mark.skipif(not HUGE, reason="this system gives nobody huge pages")


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """As much as PAGES huge pages, nothing of it written to."""
    with mmap.mmap(-1, PAGES * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as made:
        yield made


def place(memory: mmap.mmap) -> int:
    """Address of the first huge page that lies wholly within."""
    view = ctypes.c_char.from_buffer(memory)
    return -(-ctypes.addressof(view) // HUGE) * HUGE


def within(memory: mmap.mmap) -> list[int]:
    """Numbers of the huge pages of `memory` that could be gathered, in runs of no more than CALL bytes."""
    first, found = place(memory), []
    for start, length in full(HUGE):
        assert length <= pages.CALL
        found += [(start - first) // HUGE + n for n in range(length // HUGE)]
    return [number for number in found if 0 <= number < PAGES - 1]


def write(memory: mmap.mmap, but: int) -> None:
    """A byte into every page but one, which is read alone and lies in the huge page of that number."""
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # where the system gives huge ones always
    view = (ctypes.c_char * 0).from_buffer(memory)
    offset = place(memory) - ctypes.addressof(view)
    del view
    for start in range(offset, offset + (PAGES - 1) * HUGE, mmap.PAGESIZE):
        if start != offset + but * HUGE + 3 * mmap.PAGESIZE:
            memory[start] = 1
        else:
            assert memory[start] == 0
    memory.madvise(mmap.MADV_HUGEPAGE)


def rolled_up(field: str) -> int:
    """Bytes of this process, of one kind."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(lines[field].split()[0]) * 1024


@linux
def test_pages_are_gathered_that_are_in_memory_whole(memory: mmap.mmap) -> None:
    assert within(memory) == []
    write(memory, but=9)
    assert within(memory) == [n for n in range(PAGES - 1) if n != 9]
    before = rolled_up("AnonHugePages"), rolled_up("Rss")
    gathered = sum(gather(60) for _ in range(3))  # where free memory is in pieces, the system may refuse some at first
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 1):
        pytest.skip("this kernel gathers no pages")
    assert gathered
    assert rolled_up("AnonHugePages") - before[0] >= (PAGES - 4) * HUGE
    assert abs(rolled_up("Rss") - before[1]) < HUGE  # none came into memory for it


@linux
def test_no_longer_than_was_given(memory: mmap.mmap) -> None:
    write(memory, but=9)
    assert gather(0) == 0


@pytest.mark.parametrize("said", [b"", b"\0" * 12, None])
def test_what_cannot_be_known_is_left_alone(
    said: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that tells less of pages than Linux does, or nothing."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(pages, "SYSTEM", tmp_path)
    if said is not None:
        (tmp_path / "pagemap").write_bytes(said)
    monkeypatch.setattr(pages, "PAGEMAP", tmp_path / "pagemap")
    monkeypatch.setattr(pages, "anonymous", lambda: iter([(1 << 21, 1 << 23)]))
    assert gather() == 0


def test_a_bundle_that_was_opened_is_gathered(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("sottovoce.runtime.bundle.gather", lambda: called.append(1))
    load_bundle(tiny_bundle, 1)
    assert called == [1]


@pytest.mark.parametrize("said", ["always madvise [never]\n", None])
def test_nobody_gathers_where_the_system_forbids_it(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said:
        (tmp_path / "enabled").write_text(said)
        (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(pages, "SYSTEM", tmp_path)
    assert huge_page() == 0
    assert gather() == 0
