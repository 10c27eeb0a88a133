"""Huge pages for packed weights: a step reads all of them, and has to look every page up.

On Linux, from 6.1 on, where the system lets programs ask (/sys/kernel/mm/transparent_hugepage/enabled says `madvise` or
`always`). Only pages are gathered that are in memory already and nobody else's: nothing holds more of it for that.
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

PAGEMAP: Final = Path("/proc/self/pagemap")

COLLAPSE: Final = 25
"""Linux's MADV_COLLAPSE: gather these pages in a huge one, now."""

OWN: Final = np.uint64(1 << 63 | 1 << 56)
"""Bits of an entry of /proc/self/pagemap: the page is in memory, and here alone, as no page of shared zeros is."""

CALL: Final = 16 << 20
"""Bytes asked for at once: each call has every processor finish its lists of pages, which takes milliseconds."""

LARGEST: Final = 32 << 20
"""Larger ones, as of systems with pages of 64 KB, are left alone."""

BUDGET: Final = 0.2
"""Seconds at most: where free memory is in pieces the system moves others' pages, a virtual machine has to get some."""


def gather(budget: float = BUDGET) -> int:
    """Gather this process's memory in huge pages for `budget` seconds; returns the bytes of those it has then got.

    Whoever's memory it is: to know the engine's from the rest there is no way. What the system refuses stays as it is.
    """
    size = huge_page()
    if not size:
        return 0
    libc, gathered, end = ctypes.CDLL(None), 0, time.monotonic() + budget
    with contextlib.suppress(OSError, ValueError):  # systems that hide a process's own pages, or tell of them otherwise
        for place, length in full(size):
            if time.monotonic() >= end:
                break
            gathered += length * (libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(length), COLLAPSE) == 0)
    return gathered


def huge_page() -> int:
    """Bytes of a huge page; 0 where there is none to be had."""
    try:
        allowed = "[never]" not in (SYSTEM / "enabled").read_text()
        size = int((SYSTEM / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0
    return size if allowed and size <= LARGEST else 0


def full(size: int) -> Iterator[tuple[int, int]]:
    """Start and bytes of runs of huge pages of `size` bytes, each all in memory, this process's own and no file's."""
    count, at_once = size // mmap.PAGESIZE, max(1, CALL // size)
    with PAGEMAP.open("rb", buffering=0) as pagemap:
        for start, end in anonymous():
            first, last = -(-start // size), end // size
            for part in range(first, last, at_once):
                pagemap.seek(8 * count * part)
                entries = np.frombuffer(pagemap.read(8 * count * min(at_once, last - part)), np.uint64)
                places = part + np.flatnonzero((entries.reshape(-1, count) & OWN == OWN).all(axis=1))
                for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                    if len(run):
                        yield size * int(run[0]), size * len(run)


def anonymous() -> Iterator[tuple[int, int]]:
    """Start and end of this process's private mappings that may be written to and that no file is behind."""
    for line in Path("/proc/self/maps").read_bytes().split(b"\n"):  # a path may hold any byte but this one
        words = line.split(maxsplit=5)
        if len(words) >= 5 and words[1].startswith(b"rw-p") and words[4] == b"0":
            start, end = (int(word, 16) for word in words[0].split(b"-"))
            yield start, end
