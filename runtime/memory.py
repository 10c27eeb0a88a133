"""What opening a graph leaves with this process and nobody reads any more: given back to the system.

Also how the C library comes by memory for it, where that makes a difference.
"""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

WEIGHTS: Final = ".data"
"""What a weight file's name ends in."""

DONTNEED: Final = 4
"""Linux's MADV_DONTNEED: a file's pages are mapped again where they are read after all."""


THRESHOLD: Final = -3
"""glibc's M_MMAP_THRESHOLD."""

LARGE: Final = 1 << 20
"""Bytes from which on each piece of memory gets pages of its own."""


def keep_apart() -> None:
    """Have glibc take pages of their own for LARGE pieces from now on, which go back as soon as they are freed.

    By itself it does so from 128 KB on at first, then from the size of the largest that was freed so, up to 32 MB:
    weights that the engine packs one after the other would lie between those it has freed. It makes quantized ones of
    the portable flavour anew first, so that a load would peak at twice what stays. For all of this process, and for
    good; a user who has set MALLOC_MMAP_THRESHOLD_ knows better.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with contextlib.suppress(AttributeError):  # musl has no such call
            ctypes.CDLL(None).mallopt(THRESHOLD, LARGE)


def give_back(folder: Path) -> None:
    """Give back freed memory, and pages of the weight files in `folder` that nobody wrote to; on Linux.

    glibc keeps what parsing and packing a graph took, 5–15 MB; scales stay mapped that were packed with their blocks,
    3 % of int8 weights in blocks of 128, 6 % of int4. What is read again, as rows of the embedding are, comes from the
    system's cache. Beside other threads pages stay: one of them might unmap what is about to be given back.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # other C libraries have no such call
        libc.malloc_trim(0)
    if threading.active_count() > 1:
        return
    with contextlib.suppress(OSError):  # kernels without smaps
        for start, size in untouched(Path("/proc/self/smaps").read_text(errors="replace"), folder.resolve()):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), DONTNEED)


def untouched(smaps: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Start and bytes of each mapping of a weight file in `folder`, none of whose pages was written to.

    Such pages are nobody's file any more: in memory they count as anonymous, else as swapped.
    """
    start = end = 0
    written = True
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):  # a header: "7f00-7f10 r--p 00000000 08:01 123   /path"
            file = Path(words[5]) if len(words) == 6 else Path()
            inside = file.parent == folder and file.suffix == WEIGHTS
            start, end = (int(word, 16) for word in words[0].split("-")) if inside else (0, 0)
        elif words[0] == "Anonymous:":
            written = words[1] != "0"
        elif words[0] == "Swap:" and not written and words[1] == "0" and end > start:
            yield start, end - start
