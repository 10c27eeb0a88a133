"""`sottovoce profile`: what a bundle takes on a machine, as a table and, with -o, as JSON."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sottovoce.devices.profile import TEXT, Profile, profile_bundle
from sottovoce.runtime.output import check_output, written_whole
from sottovoce.runtime.table import columns, size_text

TARGETS = ("local",)
"""Where a bundle can be measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `profile`."""
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--on", choices=TARGETS, default="local", help="machine to measure on (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="write the report here (JSON)")
    parser.add_argument("--threads", type=int, help="threads per graph (default: usable processors, at most 4)")
    parser.add_argument("--text", help=f"what to speak (default: {TEXT!r})")
    parser.add_argument("--runs", type=int, default=5, help="utterances after the first one (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table and return exit status 0."""
    if args.output is not None:
        check_output(args.output)
    profile = profile_bundle(args.bundle, args.text, args.runs, args.threads)
    print(side_by_side([figures(profile)]))
    print(machine_line(profile))
    if args.output is not None:
        with written_whole(args.output) as file:
            file.write(profile.to_json().encode())
    return 0


def side_by_side(lists: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Lists of the same figures as a table, one column each."""
    return columns([[rows[0][0], *(value for _, value in rows)] for rows in zip(*lists, strict=True)])


def figures(profile: Profile) -> list[tuple[str, str]]:
    """Name and value of every figure of a report."""
    memory, timing = profile.memory, profile.timing
    return [
        ("bundle", profile.bundle),
        ("weights", profile.weights),
        ("cache", profile.cache),
        ("peak memory", size_text(memory.peak)),
        ("  weights on disk", size_text(memory.weights)),
        ("  cache", size_text(memory.cache)),
        ("  rest (Python, engine, tables)", size_text(memory.rest)),
        ("resident at the end", size_text(memory.resident)),
        ("  proportional (PSS)", "-" if memory.proportional is None else size_text(memory.proportional)),
        *((f"peak after {stage.name}", size_text(stage.memory.peak)) for stage in profile.stages),
        ("load", milliseconds(sum(timing.load.values()))),
        ("TTFA, first utterance", milliseconds(timing.first_ttfa)),
        ("TTFA", milliseconds(timing.ttfa)),
        ("RTF", "-" if timing.rtf is None else f"{timing.rtf:.3f}"),
        ("step p50", milliseconds(timing.step_p50)),
        ("step p95", milliseconds(timing.step_p95)),
        ("speech per utterance", "-" if timing.audio is None else f"{timing.audio:.2f} s"),
    ]


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f} ms"


def machine_line(profile: Profile) -> str:
    """The machine, versions and method of a report, in one line."""
    machine = profile.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    how = f"{profile.threads} thread{'s' * (profile.threads > 1)}, median of {profile.runs}"
    return f"{machine.processor}, {machine.cores} cores, {machine.system}; {versions}; {how}"
