"""The committed voice in int8: real-time factor and time to first audio, one thread.

    python -m benchmarks.reference_voice [BUNDLE]

Exports the voice (unless a bundle of it is named), profiles it in a process of its own and prints one line per gate;
exit status 1 where one is missed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.steady_memory import export_reference
from sottovoce.devices.figures import figures, machine_line, side_by_side
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import Profile

RTF = 0.15
"""Gate: seconds of work per second of audio, median."""

TTFA = 150.0
"""Gate: milliseconds to the first audio, median."""


def main() -> int:
    """Measure, print the profile and the gates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="bundle folder (default: the reference voice, int8)")
    parser.add_argument("--runs", type=int, default=5, help="utterances after the first one (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = args.bundle or export_reference(Path(folder) / "reference")
        profile = profile_bundle(bundle, runs=args.runs, threads=1)
    print(side_by_side([figures(profile)]))
    print(machine_line(profile))
    return 0 if report(profile) else 1


def report(profile: Profile) -> bool:
    """Print a line per gate; True where all are met (a voice that said nothing meets none)."""
    rtf, ttfa = profile.timing.rtf, profile.timing.ttfa
    gates = [
        ("RTF, median", rtf, RTF),
        ("TTFA, median, ms", None if ttfa is None else 1e3 * ttfa, TTFA),
    ]
    met = [value is not None and value <= limit for _, value, limit in gates]
    for passed, (name, value, limit) in zip(met, gates, strict=True):
        figure = "none" if value is None else f"{value:.3f}"
        print(f"{'ok  ' if passed else 'MISS'} {name}: {figure} (at most {limit:g})")
    return all(met)


if __name__ == "__main__":
    sys.exit(main())
