"""`fit`'s predicted peak beside the measured one, and both sides of a memory limit, for eleven bundles.

    python -m benchmarks.fit [--only NAME …] [--no-limits] [--folder FOLDER]

The reference voice in three formats, over an fp16 cache, in the portable flavour and in patches (its nets untrained:
memory does not depend on their values), and a Qwen2-0.5B shape with random weights in three. Each is profiled here, one
thread; then copies of it and of the libraries, which no cache of the system knows, run under a limit of 1.05 times the
predicted peak, under one between that and what is private, and under 0.8 times what is private, where the kernel must
kill it. Exit status 1 where a gate is missed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from benchmarks.shape05b import CONFIG, MEGABYTE
from sottovoce.devices.figures import faults
from sottovoce.devices.fit import Fit, predict, private
from sottovoce.devices.limit import drop_files
from sottovoce.devices.profile import Where, profile_bundle
from sottovoce.devices.report import Profile
from sottovoce.devices.table import find_device
from sottovoce.errors import FitError
from sottovoce.runtime.manifest import read_manifest
from sottovoce.runtime.table import columns

NEAR: Final = 0.05
"""Gate: how far the predicted peak may be off."""

EXPLAINED: Final = 0.03
"""Gate: how much of the memory at the end may belong to no term."""

SURVIVES, DIES = 1.05, 0.8
"""Limits as shares: of the predicted peak, and of the part of it that is private."""

SHAPE: Final = ("--decoder-only", "--prefix", "256", "--window", "512")

PORTABLE: Final = ("--flavour", "portable")

BUNDLES: Final = {
    "reference-fp32": ("voices/reference", "--weights", "fp32"),
    "reference-int8": ("voices/reference", "--weights", "int8"),
    "reference-int4": ("voices/reference", "--weights", "int4"),
    "patched-int8": ("patched", "--weights", "int8", "--keep-failed"),
    "half-cache-int8": ("voices/reference", "--weights", "int8", "--cache", "fp16"),
    "portable-fp32": ("voices/reference", *PORTABLE, "--weights", "fp32"),
    "portable-int8": ("voices/reference", *PORTABLE, "--weights", "int8"),
    "portable-int8-int8": ("voices/reference", *PORTABLE, "--weights", "int8", "--cache", "int8"),
    "0.5b-int8": ("0.5b", "--weights", "int8", *SHAPE),
    "0.5b-int4": ("0.5b", "--weights", "int4", *SHAPE),
    "0.5b-portable": ("0.5b", *PORTABLE, "--weights", "int4", *SHAPE),
}
"""Voice and options of each export."""


def write_voice(name: str, folder: Path) -> None:
    """The voice called `name` in `folder`; runs in a process of its own, for it takes torch."""
    from benchmarks.checkpoints import write_checkpoint

    if name == "0.5b":
        write_checkpoint(folder, CONFIG)
        return
    from sottovoce.models.patch.config import PatchConfig
    from sottovoce.models.patch.decoder import PatchDecoder
    from sottovoce.models.voice import Voice, save_voice

    shutil.copytree("voices/reference", folder)
    plain = Voice.open(folder)
    config = PatchConfig.of(plain.checkpoint.config, 4)
    decoder = PatchDecoder(plain.checkpoint.load(), config, plain.complete().prompt)
    save_voice(decoder, dict(plain.checkpoint.hf), replace(plain.complete(), patch=config), folder)


def make_bundle(name: str, folder: Path) -> Path:
    """The bundle called `name`, made below `folder` where it is not there."""
    bundle, (voice, *options) = folder / name, BUNDLES[name]
    if not bundle.exists():
        path = Path(voice) if voice.startswith("voices/") else folder / f"voice-{voice}"
        if not path.exists():
            _alone("benchmarks.fit", "--write", voice, "--folder", str(path))
        _alone("sottovoce", "export", str(path), "-o", str(bundle), "--threads", "1", *options)
    return bundle


def _alone(module: str, *options: str) -> None:
    """`python -m module` in a process of its own."""
    done = subprocess.run([sys.executable, "-m", module, *options], capture_output=True, text=True)
    if done.returncode and "--keep-failed" not in options:
        raise SystemExit(f"{module} {' '.join(options)}: {done.stderr[-500:]}")


@dataclass(frozen=True)
class Limited:
    """A run under a limit of `size` bytes: its profile, or what was said of its end."""

    size: int
    profile: Profile | None
    said: str


@dataclass(frozen=True)
class Found:
    """One bundle: prediction, measurement, and runs under limits, the loosest first."""

    fit: Fit
    profile: Profile
    limited: tuple[Limited, ...]

    @property
    def off(self) -> float:
        """Predicted over measured peak, less 1."""
        return self.fit.memory.expected / self.profile.memory.peak - 1

    @property
    def unexplained(self) -> float | None:
        """Share of the memory at the end that no term explains."""
        terms = self.profile.terms
        return None if terms is None else abs(terms.unexplained) / terms.total


def measure(bundle: Path, limits: bool) -> Found:
    """Predict, profile, and run under limits where those are wanted."""
    fit = predict(read_manifest(bundle), find_device("raspberry-pi-4b-1gb"))
    profile = profile_bundle(bundle, runs=2, threads=1)
    whole, held = fit.memory.expected, private(fit)
    sizes = (SURVIVES * whole, (whole + held) / 2, DIES * held) if limits else ()
    return Found(fit, profile, tuple(run_limited(bundle, int(size)) for size in sizes))


def run_limited(bundle: Path, size: int) -> Limited:
    """A fresh copy of `bundle`, profiled within `size` bytes by fresh copies of the libraries."""
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        copy = Path(folder) / bundle.name
        shutil.copytree(bundle, copy)
        with fresh_libraries(Path(folder) / "site"):
            try:
                return Limited(size, profile_bundle(copy, runs=1, threads=1, where=Where(limit=size)), "")
            except FitError as error:
                return Limited(size, None, str(error))


@contextmanager
def fresh_libraries(site: Path) -> Iterator[None]:
    """Processes started in the block import the engine from `site`: their pages count where they are first read."""
    for name in ("numpy", "onnxruntime"):
        with resources.as_file(resources.files(name)) as package:
            for path in package.parent.glob(f"{name}*"):  # numpy.libs and the versions lie beside
                shutil.copytree(path, site / path.name)
    drop_files(site)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(site), before) if part)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


LIMITS: Final = 3
HEADER = ("bundle", "predicted MB", "measured MB", "off", "unexplained", *("limit MB: outcome",) * LIMITS)


def row(name: str, found: Found) -> tuple[str, ...]:
    """A line of the table."""
    peaks = (found.fit.memory.expected, found.profile.memory.peak)
    share = "-" if found.unexplained is None else f"{100 * found.unexplained:.1f} %"
    ends = [f"{each.size / MEGABYTE:.1f}: {outcome(each, found.profile)}" for each in found.limited] or ["-"] * LIMITS
    return (name, *(f"{peak / MEGABYTE:.1f}" for peak in peaks), f"{100 * found.off:+.1f} %", share, *ends)


def outcome(limited: Limited, free: Profile) -> str:
    """How a run under a limit ended, beside the one without."""
    if limited.profile is None:
        stage = re.search(r"during ([\w ]+),", limited.said)
        return f"killed during {stage[1]}" if stage and "want of memory" in limited.said else "failed"
    slower = limited.profile.utterances[-1].busy / free.utterances[-1].busy
    return f"runs, {faults(limited.profile)} pages again, time × {slower:.2f}"


def report(found: dict[str, Found]) -> bool:
    """Print the table and a line per gate; True where all are met."""
    print(columns([HEADER, *(row(name, each) for name, each in found.items())], indent=""))
    gates = []
    for name, each in found.items():
        gates.append((f"{name}: predicted peak off by", abs(each.off), NEAR))
        gates.append((f"{name}: memory that no term explains", each.unexplained or 0.0, EXPLAINED))
        if each.limited:
            first, _, last = each.limited
            gates.append((f"{name}: dies at {SURVIVES} × the prediction", float(first.profile is None), 0.0))
            alive = float("want of memory" not in last.said)
            gates.append((f"{name}: lives, or ends otherwise, at {DIES} × what is private", alive, 0.0))
    for what, value, most in gates:
        print(f"{'ok  ' if value <= most else 'MISS'} {what}: {value:.3f} (at most {most:g})")
    return all(value <= most for _, value, most in gates)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BUNDLES, default=list(BUNDLES), help="bundles (default: all)")
    parser.add_argument("--no-limits", action="store_true", help="only predict and measure")
    parser.add_argument("--folder", type=Path, help="keep bundles here and use those that are there")
    parser.add_argument("--write", metavar="VOICE", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.write:
        write_voice(args.write, args.folder)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        found = {name: measure(make_bundle(name, folder), not args.no_limits) for name in args.only}
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
