"""Threads on processors of their own: the fastest ones of a machine whose processors differ (big.LITTLE)."""

import os
from pathlib import Path

SYS = Path("/sys/devices/system/cpu")


def pin_threads(count: int, root: Path = SYS) -> list[int]:
    """Let this process run on `count` of the processors it may use, the fastest first; those it runs on afterwards.

    On a system without such calls nothing is done and the list is empty.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    chosen = fastest(usable, count, root)
    os.sched_setaffinity(0, chosen)
    return sorted(os.sched_getaffinity(0))


def fastest(processors: list[int], count: int, root: Path) -> list[int]:
    """`count` of `processors` by capacity; of equal ones the last, for the first take interrupts."""
    return sorted(processors, key=lambda number: (capacity(number, root), number))[-count:]


def capacity(number: int, root: Path) -> int:
    """How fast a processor is beside the others of its machine: its capacity, else its highest frequency, else 0."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return int((root / f"cpu{number}" / name).read_text())
        except (OSError, ValueError):
            continue
    return 0
