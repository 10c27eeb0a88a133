"""This project's decoder beside its peers' on a Qwen2-0.5B shape: step time over the context, memory, load, disk.

    python -m benchmarks.peers                                       everybody, every point
    python -m benchmarks.peers --only ours-int4 genai-int4 --points 100 384 --rounds 3      a part of it
    python -m benchmarks.peers --table benchmarks/peers/*.json       the table, gates and plot of saved runs

Each peer runs in an environment of its own, made here with the pins beside its module; all read one random checkpoint.
Steps are greedy, and taken in turns of a few; a ratio is the median over the rounds. A peer that cannot be installed or
fails is a line with its error. Prints a line per gate; exit status 1 where one is missed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import ENTRIES
from benchmarks.peers.environments import PeerError
from benchmarks.peers.plot import draw
from benchmarks.peers.prepared import checkpoint, prepare
from benchmarks.peers.rounds import Ready, Row, Setting, measure
from benchmarks.peers.table import report, table
from benchmarks.shape05b import CONFIG
from sottovoce.devices.machine import describe_machine
from sottovoce.runtime.output import check_output

CACHE = Path("work/peers")


@dataclass(frozen=True)
class Table:
    """What is asked for by default, and `show`, which prints it and is True where all gates are met."""

    doc: str
    only: tuple[str, ...]
    points: tuple[int, ...]
    show: Callable[[dict[str, Row]], bool]


def arguments(argv: Sequence[str] | None, asked: Table) -> argparse.Namespace:
    """The command line."""
    default = Setting()
    parser = argparse.ArgumentParser(description=asked.doc.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=asked.only, help="who takes part")
    parser.add_argument("--points", nargs="+", type=int, default=asked.points, help="tokens of context")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="turns of each at a point")
    parser.add_argument("--steps", type=int, default=default.steps, help="steps counted in a turn")
    parser.add_argument("--threads", type=int, default=default.threads, help="threads of every engine")
    parser.add_argument("--cache", type=Path, default=CACHE, help="environments and bundles (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the run here too")
    parser.add_argument("--plot", type=Path, help="draw step times over the context")
    parser.add_argument("--prepare", action="store_true", help="make environments and bundles, and measure nothing")
    parser.add_argument("--table", nargs="+", type=Path, help="measure nothing: show these saved runs")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Row]:
    """Prepare and measure, as the command line says."""
    cache = args.cache.resolve()
    rows = {name: Row() for name in args.only}
    ready: dict[str, Ready] = {}

    def say(line: str) -> None:
        """What is done next; what was found so far outlives a run that is cut off."""
        print(line, file=sys.stderr, flush=True)
        if args.json:
            save(args.json, rows, args.threads)

    source = checkpoint(cache, config)
    for name, row in rows.items():
        say(f"preparing {name}")
        try:
            ready[name] = prepare(name, source, cache, row)
        except PeerError as error:
            row.error = str(error)
    if not args.prepare:
        setting = Setting(tuple(sorted(args.points)), args.rounds, args.steps, args.threads)
        measure(ready, rows, setting, say)
    return rows


def save(path: Path, rows: dict[str, Row], threads: int) -> None:
    """A run as JSON, with the machine it ran on."""
    found = {"machine": asdict(describe_machine()), "threads": threads}
    found["rows"] = {name: asdict(row) for name, row in rows.items()}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def saved(path: Path) -> tuple[dict[str, Row], str]:
    """The rows of a saved run, and a line on how it was made."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = {name: Row(**row) for name, row in found["rows"].items()}
    for row in rows.values():
        row.steps = {int(point): turns for point, turns in row.steps.items()}
        row.peaks = {int(point): peak for point, peak in row.peaks.items()}
    machine = found["machine"]
    return rows, f"{machine['processor']}, {found['threads']} of {machine['cores']} cores"


def show(rows: dict[str, Row]) -> bool:
    """Print table and gates; True where all are met."""
    points = sorted({point for row in rows.values() for point in row.steps})
    print(*table(rows, points), "", sep="\n")
    return report(rows)


STEPS = Table(__doc__ or "", tuple(ENTRIES), Setting().points, show)


def main(argv: Sequence[str] | None = None, config: dict[str, Any] | None = None, asked: Table = STEPS) -> int:
    """Measure and print, or show what was saved."""
    args = arguments(argv, asked)
    for path in filter(None, (args.json, args.plot)):
        check_output(path)
    if args.table:
        runs = [saved(path) for path in args.table]
        met = [asked.show(rows) for rows, _ in runs]
        if args.plot:
            draw(runs[0][0], runs[0][1], args.plot)
        return 0 if all(met) else 1
    rows = run(args, config or CONFIG)
    met = [asked.show(rows)]
    if args.json:
        save(args.json, rows, args.threads)
    if args.plot:
        draw(rows, f"{describe_machine().processor}, {args.threads} threads", args.plot)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
