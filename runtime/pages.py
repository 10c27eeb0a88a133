"""Huge pages for packed weights: a step reads all of them, and has to look every page up.

On Linux, from 6.1 on, where the system lets programs ask (/sys/kernel/mm/transparent_hugepage/enabled says `madvise` or
`always`). Pages are gathered that are in memory already: nothing holds more of it for that, while opening or after.
"""

import contextlib
import ctypes
import mmap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

SYSTEM: Final = Path("/sys/kernel/mm/transparent_hugepage")

COLLAPSE: Final = 25
"""Linux's MADV_COLLAPSE: gather these pages in a huge one, now."""

PRESENT: Final = np.uint64(1 << 63)
"""Bit of an entry of /proc/self/pagemap: the page is in memory."""

RUN: Final = 8
"""Huge pages asked for at once: each call has every processor finish its lists of pages, which takes milliseconds."""

BUDGET: Final = 0.2
"""Seconds at most: where free memory is in pieces, the system moves others' pages to make room."""


def gather(budget: float = BUDGET) -> int:
    """Gather this process's memory in huge pages for `budget` seconds; returns the bytes of those it has then got.

    What the system refuses stays as it is.
    """
    size = huge_page()
    if not size:
        return 0
    libc, gathered, end = ctypes.CDLL(None), 0, time.monotonic() + budget
    with contextlib.suppress(OSError):  # systems that hide a process's own pages
        for place, length in full(size):
            if time.monotonic() >= end:
                break
            gathered += length * (libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(length), COLLAPSE) == 0)
    return gathered


def huge_page() -> int:
    """Bytes of a huge page; 0 where there is none to be had."""
    try:
        allowed = "[never]" not in (SYSTEM / "enabled").read_text()
        return int((SYSTEM / "hpage_pmd_size").read_text()) if allowed else 0
    except (OSError, ValueError):
        return 0


def full(size: int) -> Iterator[tuple[int, int]]:
    """Where huge pages of `size` bytes may lie: all is in memory there, may be written to, and is no file's."""
    count = size // mmap.PAGESIZE
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for place, permissions, _, _, inode, *_ in map(str.split, lines):
            start, end = (int(word, 16) for word in place.split("-"))
            first, last = -(-start // size), end // size
            if not permissions.startswith("rw") or inode != "0" or last <= first:
                continue
            for part in range(first, last, RUN):
                pagemap.seek(8 * count * part)
                entries = np.frombuffer(pagemap.read(8 * count * min(RUN, last - part)), np.uint64).reshape(-1, count)
                places = part + np.flatnonzero((entries & PRESENT).all(axis=1))
                for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                    if len(run):
                        yield size * int(run[0]), size * len(run)
