"""`sottovoce fit`: whether a bundle fits a device, or a table of all devices."""

import argparse
from pathlib import Path

from sottovoce.devices.fit import Fit, Range, predict
from sottovoce.devices.report import read_profile
from sottovoce.devices.table import find_device, read_devices
from sottovoce.runtime.manifest import read_manifest
from sottovoce.runtime.table import columns, size_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fit`."""
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--device", help="name in the table (default: all of them; `sottovoce devices` lists them)")
    parser.add_argument(
        "--report", type=Path, action="append", default=[], help="a profile taken on such a device; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Print the verdict with its terms, or the table; exit status 1 where the device asked for cannot take it."""
    manifest = read_manifest(args.bundle)
    reports = [read_profile(path) for path in args.report]
    if args.device is None:
        fits = {name: predict(manifest, device, reports) for name, device in read_devices().items()}
        print(columns([("device", "verdict", "memory", "RTF"), *((name, *_cells(fit)) for name, fit in fits.items())]))
        return 0
    fit = predict(manifest, find_device(args.device), reports)
    print(explained(args.device, fit))
    return 1 if fit.verdict in ("does not fit", "does not run") else 0


def _cells(fit: Fit) -> tuple[str, str, str]:
    """Verdict, memory and real-time factor."""
    return fit.verdict, "-" if fit.verdict == "does not run" else sizes(fit.memory), factors(fit.rtf)


def explained(name: str, fit: Fit) -> str:
    """The verdict, every term and every reason."""
    rows = [(term.name, size_text(round(term.size.expected)), sizes(term.size)) for term in fit.terms]
    total = ("peak memory", size_text(round(fit.memory.expected)), sizes(fit.memory))
    lines = [f"{name}: {fit.verdict}", columns([("", "expected", "range"), *rows, total])]
    lines += [f"  RTF {factors(fit.rtf)}"]
    lines += [f"  {term.name}: {term.reason}" for term in fit.terms]
    return "\n".join([*lines, *(f"  {reason}" for reason in fit.reasons)])


def sizes(found: Range) -> str:
    """A range of bytes."""
    return f"{found.low / 1e6:.0f}–{found.high / 1e6:.0f} MB" if found.low < found.high else "exact"


def factors(found: Range | None) -> str:
    """A range of real-time factors."""
    if found is None:
        return "-"
    return f"≥ {found.low:.3f}" if found.low == found.high else f"{found.low:.3f}–{found.high:.3f}"
