"""A virtual environment for each peer, made once; this project's own is left as it is."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

HERE = Path(__file__).parent

PROCESSOR: Final = Path("/proc/cpuinfo")

FLAGS: Final = {
    "GGML_AVX512": "avx512f",
    "GGML_AVX512_VBMI": "avx512vbmi",
    "GGML_AVX512_VNNI": "avx512_vnni",
}
"""Switches of a build that not every processor here has, and what Linux calls what they switch on."""


class PeerError(Exception):
    """A peer that cannot be installed, or fails: one line that goes into the table."""


def requirements(module: str) -> str:
    """A peer's pins, without switches for instructions that this processor lacks; nothing for this project itself."""
    pins = HERE / f"{module}.txt"
    text = pins.read_text(encoding="utf-8") if pins.exists() else ""
    known = set(PROCESSOR.read_text().split()) if PROCESSOR.exists() else set(FLAGS.values())
    for switch in (name for name, flag in FLAGS.items() if flag not in known):
        text = re.sub(rf"-D{switch}=ON;", "", text)
    return text


def interpreter(module: str, cache: Path) -> Path:
    """Python of the peer's environment under `cache`, which is made where it is missing or older than its pins.

    Raises PeerError where it cannot be installed.
    """
    folder, wanted = cache / module, requirements(module)
    if not wanted:
        return Path(sys.executable)
    python = folder / "bin" / "python"
    if fresh(stamp := cache / f"{module}.txt", wanted):
        return python
    cache.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    pins = cache / f"{module}.pins"
    pins.write_text(wanted, encoding="utf-8")
    with (cache / f"{module}.log").open("wb") as log:
        run([sys.executable, "-m", "venv", "--clear", str(folder)], log)
        # pip's cache would give a wheel of the same version that was built with other switches
        run([str(python), "-m", "pip", "install", "--no-cache-dir", "--requirement", str(pins)], log)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def fresh(stamp: Path, wanted: str) -> bool:
    """Whether what `stamp` speaks for, and is written after, was made whole and from what is `wanted` now."""
    return stamp.exists() and stamp.read_text(encoding="utf-8") == wanted


def run(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None) -> None:
    """Run `command`, what it prints in `log`; PeerError with its last words where it fails."""
    done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise PeerError(last_words(Path(log.name), done.returncode))


def last_words(log: Path, status: int) -> str:
    """How a process ended, and the last line that it left in `log`."""
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line and not line.startswith("[notice]")]
    return f"{how}: {said[-1][:300]}" if said else how
