"""`sottovoce export --fit` for three devices: the reference voice, and the same in the shape of Qwen2-0.5B.

    python -m benchmarks.export_fit [--only reference 0.5b] [--folder FOLDER]

Each search is the command that a user types; it prints what it tried, and what it chose is profiled here, alone in a
process, one thread. How far a bundle may be from its voice differs by device, so that more than the smallest format is
chosen. Exit status 1 where nothing fits, or what was chosen holds more than the device's budget.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.shape05b import MEGABYTE
from sottovoce.devices.fit import SHARES
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.table import find_device

DEVICES: Final = {"raspberry-pi-zero-2-w": 0.05, "raspberry-pi-4b-1gb": 0.01, "raspberry-pi-5-4gb": 0.001}
"""Devices, and nats per token that the reference voice may lose there."""

REFERENCE: Final = Path("voices/reference")

SEARCHES: Final = {"reference": DEVICES, "0.5b": dict.fromkeys(DEVICES, 0.05)}


def open_voice(name: str, folder: Path) -> Path:
    """The voice called `name`; the wide one is made below `folder`, in a process of its own, for it takes torch."""
    if name == "reference":
        return REFERENCE
    wide = folder / "voice"
    if not wide.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.widened", str(REFERENCE), str(wide)], check=True)
    return wide


def search(voice: Path, device: str, most: float, bundle: Path) -> bool:
    """Type the command, and measure what it chose; whether that is within the device's budget."""
    words = ["export", str(voice), "-o", str(bundle), "--fit", device, "--max-kl", f"{most:g}", "--threads", "1"]
    print(f"sottovoce {shlex.join(words)}", flush=True)
    if subprocess.run([sys.executable, "-m", "sottovoce", *words], stderr=subprocess.DEVNULL).returncode:
        print(f"MISS nothing was chosen for {device}\n")
        return False
    peak, room = profile_bundle(bundle, runs=1, threads=1).memory.peak, SHARES[1] * find_device(device).ram * 1e9
    met = peak <= room
    print(f"{'ok  ' if met else 'MISS'} peak {peak / MEGABYTE:.1f} MB (at most {room / MEGABYTE:.0f})\n", flush=True)
    return met


def main(argv: Sequence[str] | None = None) -> int:
    """Search for each voice and device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="voices (default: all)")
    parser.add_argument("--folder", type=Path, help="keep bundles here, and what was tried")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        met = [
            search(open_voice(name, folder), device, most, folder / f"{name}-{device}")
            for name in args.only
            for device, most in SEARCHES[name].items()
        ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
