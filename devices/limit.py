"""A memory limit around a process: a control group of its own (version 2, then 1), else the data limit of the system.

Swap counts as memory, so that what does not fit is killed. Source: Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst of Linux. A group charges a file's pages to whoever read them first, so that files are dropped from
the system's memory before (`drop_files`).
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sottovoce.errors import OptionError

How = Literal["cgroup v2", "cgroup v1", "data limit"]

MOUNTS: Final = Path("/proc/mounts")

UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Limit:
    """A limit of `size` bytes as it was enforced.

    `data limit` counts private memory that is asked for, used or not, and no files: it is a substitute. `peak` (bytes)
    and `killed`, the processes that the kernel ended for want of memory, are None there.
    """

    size: int
    how: How
    peak: int | None
    killed: int | None


def parse_size(text: str) -> int:
    """`512M` as bytes (K, M and G are powers of 1024); raises OptionError."""
    match = re.fullmatch(r"(\d+)([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if not match or not int(match[1]):
        raise OptionError(f"--limit {text}: expected a size such as 512M or 2G")
    return int(match[1]) * UNITS[match[2].upper()]


class Group:
    """A control group; `command` starts a program in it."""

    how: How

    def __init__(self, folder: Path) -> None:
        """Make the group at `folder`; raises OSError where that is not allowed."""
        folder.mkdir()
        self.folder = folder

    def command(self, words: list[str]) -> list[str]:
        """`words` such that they join the group before they begin."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *words]

    def number(self, file: str, field: str = "") -> int:
        """The number in one of the group's files, or in the line of it that begins with `field`."""
        text = (self.folder / file).read_text()
        match = re.search(rf"^{field} ?(\d+)$", text, re.MULTILINE)
        return int(match[1]) if match else 0

    def remove(self) -> None:
        """Remove the group once its last process is gone."""
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.02)


class GroupV2(Group):
    """A group of the unified hierarchy."""

    how = "cgroup v2"

    def __init__(self, folder: Path, size: int) -> None:
        """Make the group with a limit of `size` bytes and no swap."""
        super().__init__(folder)
        (folder / "memory.max").write_text(str(size))
        with contextlib.suppress(OSError):  # a kernel without swap has no such file
            (folder / "memory.swap.max").write_text("0")

    def result(self, size: int) -> Limit:
        """What the kernel counted."""
        return Limit(size, self.how, self.number("memory.peak"), self.number("memory.events", "oom_kill"))


class GroupV1(Group):
    """A group of the memory controller's own hierarchy."""

    how = "cgroup v1"

    def __init__(self, folder: Path, size: int) -> None:
        """Make the group with a limit of `size` bytes, swap included."""
        super().__init__(folder)
        (folder / "memory.limit_in_bytes").write_text(str(size))
        with contextlib.suppress(OSError):
            (folder / "memory.memsw.limit_in_bytes").write_text(str(size))

    def result(self, size: int) -> Limit:
        """What the kernel counted."""
        peak = self.number("memory.max_usage_in_bytes")
        return Limit(size, self.how, peak, self.number("memory.oom_control", "oom_kill"))


class DataLimit:
    """The substitute where no group can be made: the system's limit on private memory."""

    how: Final = "data limit"

    def __init__(self, size: int) -> None:
        """A limit of `size` bytes."""
        self.size = size

    def command(self, words: list[str]) -> list[str]:
        """`words` under the limit."""
        return ["sh", "-c", 'ulimit -d "$0" && exec "$@"', str(self.size // 1024), *words]

    def result(self, size: int) -> Limit:
        """Nothing is counted."""
        return Limit(size, self.how, None, None)

    def remove(self) -> None:
        """There is nothing to remove."""


@contextmanager
def limited(size: int) -> Iterator[GroupV2 | GroupV1 | DataLimit]:
    """The strictest limit of `size` bytes that this process may set."""
    group = _make(size)
    try:
        yield group
    finally:
        group.remove()


def _make(size: int) -> GroupV2 | GroupV1 | DataLimit:
    """A group where one can be made, the substitute elsewhere."""
    name = f"sottovoce.{os.getpid()}"
    mounts = [line.split()[1:4] for line in MOUNTS.read_text().splitlines()]
    for point, kind, options in mounts:
        root = Path(point)
        with contextlib.suppress(OSError):
            if kind == "cgroup2" and "memory" in (root / "cgroup.subtree_control").read_text().split():
                return GroupV2(root / name, size)
            if kind == "cgroup" and "memory" in options.split(","):
                return GroupV1(root / name, size)
    return DataLimit(size)


def drop_files(folder: Path) -> None:
    """Ask the system to forget the contents of the files below `folder`, so that reading them is reading them anew."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # pages that are not written yet stay
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
