"""Memory of a process, as the operating system counts it. All figures are bytes.

`peak` is max(VmHWM, VmRSS + VmSwap): VmHWM misses pages that were swapped out. `ru_maxrss` is inherited from the parent
on Linux, so it serves only where there is no /proc.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sottovoce.errors import OptionError

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Resident and swapped now, the peak so far; `proportional` (PSS) counts shared pages in part."""

    resident: int
    swapped: int
    peak: int
    proportional: int | None


@dataclass(frozen=True)
class Mappings:
    """Resident bytes by what is behind them, the bundle's files, other files or nothing; and swapped ones."""

    bundle: int
    files: int
    anonymous: int
    swapped: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.bundle + self.files + self.anonymous + self.swapped


def read_memory() -> Memory:
    """Memory of this process. Raises OptionError on a system that offers neither /proc nor getrusage."""
    status = PROC / "status"
    if status.exists():
        return from_proc(status.read_text(), _read(PROC / "smaps_rollup"))
    if os.name != "posix":
        raise OptionError(f"profile reads memory on Linux and macOS, not on {sys.platform}: profile there, or on WSL")
    return from_getrusage()


def from_proc(status: str, rollup: str | None) -> Memory:
    """Memory from the text of /proc/self/status and, where the kernel has it, /proc/self/smaps_rollup."""
    fields = kilobytes(status)
    resident, swapped = fields["VmRSS"], fields.get("VmSwap", 0)
    pss = kilobytes(rollup).get("Pss") if rollup else None
    return Memory(resident, swapped, max(fields.get("VmHWM", 0), resident + swapped), pss)


def from_getrusage() -> Memory:
    """Memory where there is no /proc: the peak from getrusage, the present size from `ps`."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    listing = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    resident = int(listing.stdout) * 1024
    return Memory(resident, 0, max(peak, resident), None)


def read_mappings(folder: Path) -> Mappings | None:
    """This process's memory by what is behind it, for the bundle in `folder`; None without /proc/self/smaps."""
    text = _read(PROC / "smaps")
    return None if text is None else from_smaps(text, folder.resolve())


def from_smaps(text: str, folder: Path) -> Mappings:
    """Mappings of the text of /proc/self/smaps; pages of a file that were written to are anonymous."""
    bundle = files = anonymous = swapped = 0
    inside = False
    for line in text.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):  # a header: "7f00-7f10 r--p 00000000 08:01 123   /path"
            inside = len(words) == 6 and Path(words[5]).is_relative_to(folder)
        elif words[0] == "Rss:":
            resident = int(words[1]) * 1024
            bundle, files = (bundle + resident, files) if inside else (bundle, files + resident)
        elif words[0] == "Anonymous:":
            written = int(words[1]) * 1024
            anonymous += written
            bundle, files = (bundle - written, files) if inside else (bundle, files - written)
        elif words[0] == "Swap:":
            swapped += int(words[1]) * 1024
    return Mappings(bundle, files, anonymous, swapped)


def page_faults() -> int:
    """Pages this process had to read from storage so far (major faults)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _read(path: Path) -> str | None:
    """The text of a /proc file, or None where the kernel does not offer it."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def kilobytes(text: str) -> dict[str, int]:
    """`Name:   123 kB` lines as bytes."""
    pairs = (line.split(":", 1) for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}
