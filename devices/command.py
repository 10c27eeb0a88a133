"""`sottovoce profile`: what a bundle takes on a machine, as a table, as JSON and as a page."""

import argparse
import sys
from pathlib import Path

from sottovoce.devices.figures import figures, machine_line, side_by_side, slower_lines
from sottovoce.devices.limit import parse_size
from sottovoce.devices.page import render
from sottovoce.devices.profile import TEXT, Where, profile_bundle
from sottovoce.devices.report import Profile, read_profile
from sottovoce.devices.targets.target import open_target
from sottovoce.errors import OptionError
from sottovoce.runtime.output import check_output, written_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `profile`."""
    parser.add_argument("bundle", nargs="?", type=Path, help="bundle folder")
    parser.add_argument("--compare", nargs="+", type=Path, metavar="REPORT", help="show reports instead of measuring")
    parser.add_argument(
        "--on", default="local", help="machine: local, ssh://[user@]host[:port] or adb://serial (default: %(default)s)"
    )
    parser.add_argument("--python", help="interpreter on that machine (default: the first of 3.11 or newer)")
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels for that machine (default: what it has, or pip's)"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the report here (JSON)")
    parser.add_argument("--html", type=Path, help="write a page of the report here (needs sottovoce[report])")
    parser.add_argument("--threads", type=int, help="threads per graph (default: usable processors, at most 4)")
    parser.add_argument("--text", help=f"what to speak (default: {TEXT!r})")
    parser.add_argument("--temperature", type=float, help="instead of the voice's own; 0 says the same everywhere")
    parser.add_argument("--limit", help="memory to allow, as 512M: shows that it fits, or where it is killed")
    parser.add_argument("--runs", type=int, default=5, help="utterances after the first one (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure, or read reports, print the table and return exit status 0."""
    for path in (args.output, args.html):
        if path is not None:
            check_output(path)
    profiles = [read_profile(path) for path in args.compare] if args.compare else [_measure(args)]
    print(side_by_side([figures(profile) for profile in profiles]))
    for profile in profiles:
        print(machine_line(profile))
    for line in slower_lines(profiles):
        print(line)
    if args.html is not None:
        _write(args.html, render(profiles))
    return 0


def _measure(args: argparse.Namespace) -> Profile:
    """Profile the bundle asked for, and write the report where one is."""
    if args.bundle is None:
        raise OptionError("give the bundle to measure, or --compare REPORT REPORT…")
    limit = None if args.limit is None else parse_size(args.limit)
    where = Where(open_target(args.on), args.python, args.wheels, limit, _tell)
    profile = profile_bundle(args.bundle, args.text, args.runs, args.threads, where, args.temperature)
    if args.output is not None:
        _write(args.output, profile.to_json())
    return profile


def _write(path: Path, text: str) -> None:
    """`text` into the file at `path`, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


def _tell(line: str) -> None:
    """Say what is going on, apart from the report."""
    print(f"  {line}", file=sys.stderr)
