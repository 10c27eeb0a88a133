"""What the kernels of ONNX Runtime make of memory: products alone, a step in GB/s beside a read-only sweep, one run.

    python -m benchmarks.kernels [--threads N] [--rounds 3] [--folder KEPT]

Every row takes its turn in a process of its own; `--folder` keeps the graphs for the next time. Settings of the engine
and of the system follow for the two best kernels. No gate: this is what `benchmarks.quantized` can at best reach. Rows
"in the cache" read one small matrix again and again, which takes memory out of it: they show what a kernel can do.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.folders import kept_folder
from benchmarks.quantized import small_pages, sweep
from sottovoce.runtime.pages import gather
from sottovoce.runtime.session import open_session

BEST: Final = ("MatMulNBits, int8, block 128", "MatMulNBits, int4, block 128")
SLEEP: Final = {"session.intra_op.allow_spinning": "0"}
SECONDS: Final = 1.0
"""How long a turn steps, at least."""


@dataclass(frozen=True)
class Row:
    """A `graph` by its name, entries of the session's configuration, and what is called `before` in its process."""

    graph: str
    label: str = ""
    entries: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """What the table says."""
        return f"{self.graph}, {self.label}" if self.label else self.graph


def rows(graphs: Sequence[str], threads: int) -> list[Row]:
    """Every graph as `open_session` opens it, then other settings for the best."""
    made = [Row(name) for name in graphs]
    for name in BEST:
        if sys.platform == "linux":
            made.append(Row(name, "small pages", before=small_pages))
        if threads > 1:
            made.append(Row(name, "threads that sleep at once", SLEEP))
            places = ";".join(str(n) for n in range(2, threads + 1))  # of all threads but the first, the caller's
            made.append(Row(name, "threads pinned", {"session.intra_op_thread_affinities": places}))
    made.append(Row("MatMulNBits, int2, block 64", "by tables", {"mlas.use_lut_gemm": "1"}))
    return [row for row in made if row.graph in graphs]


def turn(graph: Path, threads: int, entries: dict[str, str]) -> float:
    """In this process: the median seconds of a run, the first third left out."""

    def adjust(options: Any) -> None:
        for key, value in entries.items():
            options.add_session_config_entry(key, value)

    session = open_session(graph, threads, adjust)
    gather()
    (node,) = session.get_inputs()
    feeds = {node.name: np.random.default_rng(0).standard_normal(node.shape, np.float32)}  # type: ignore[arg-type]
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return statistics.median(times[len(times) // 3 :])


def in_own_process(folder: Path, number: int, threads: int, row: Row) -> float:
    """One turn's figure; NaN where the engine refuses."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--turn", str(folder / f"{number}.onnx")]
    command += ["--threads", str(threads), "--entries", json.dumps(row.entries)]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=row.before)
    return float(made.stdout) if made.returncode == 0 else float("nan")


def make(folder: Path, graphs: dict[str, Callable[..., str]]) -> dict[str, int]:
    """Bytes of each graph's weights; written unless they are there."""
    from benchmarks.kernel_graphs import write

    kept = folder / "bytes.json"
    if not kept.exists():
        sizes = {name: write(name, make, folder / f"{i}.onnx") for i, (name, make) in enumerate(graphs.items())}
        kept.write_text(json.dumps(sizes))
    read: dict[str, int] = json.loads(kept.read_text())
    return read


def measure(folder: Path, sizes: dict[str, int], threads: int, rounds: int) -> tuple[float, dict[str, float]]:
    """Bytes/s of the sweep, and of each row, medians over the rounds."""
    numbers, rates = {name: number for number, name in enumerate(sizes)}, list[float]()
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        rates.append(sweep(threads))
        for row in rows(list(sizes), threads):
            seconds = in_own_process(folder, numbers[row.graph], threads, row)
            taken.setdefault(row.name, []).append(sizes[row.graph] / seconds)
    return statistics.median(rates), {name: statistics.median(found) for name, found in taken.items()}


def report(rate: float, found: dict[str, float], threads: int) -> None:
    """Print a Markdown table."""
    print(f"{threads} thread{'s' * (threads > 1)}, read-only sweep {rate / 1e9:.1f} GB/s\n")
    print("| kernel | GB/s | of the sweep |\n|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value / 1e9:.1f} | {value / rate:.0%} |" if value == value else f"| {name} | refused | |")


def main(argv: Sequence[str] | None = None, graphs: dict[str, Callable[..., str]] | None = None) -> int:
    """One turn, or the whole of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turn", type=Path, help="time this graph alone and print seconds")
    parser.add_argument("--entries", type=json.loads, default={}, help="with --turn: the session's configuration")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every row, 0 only writes (default: 3)")
    parser.add_argument("--folder", type=Path, help="keep the graphs here")
    args = parser.parse_args(argv)
    if args.turn:
        print(turn(args.turn, args.threads, args.entries))
        return 0
    from benchmarks.kernel_graphs import GRAPHS

    with kept_folder(args.folder) as folder:
        sizes = make(folder, graphs or GRAPHS)
        if args.rounds:
            report(*measure(folder, sizes, args.threads, args.rounds), args.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
