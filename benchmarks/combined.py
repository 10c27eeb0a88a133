"""Half depth, window and patches of four at once, int4, on a Qwen2-0.5B shape: beside the uncompressed fp32 export.

    python -m benchmarks.combined                 everybody
    python -m benchmarks.combined --only together-int4 genai-int4 --points 384

One run of `benchmarks/peers`, whose options it takes: the backbone whole in fp32 with a cache that grows (this
project's graph, and optimum-onnx's), onnxruntime-genai's int4, this project's int4 with a window alone, and all three
methods together, with the paper's nets for 24 layers (which the gates are about), and with the shallower ones that
`compress patch` makes for twelve. Times are for a second of speech, 50 tokens. Gates: how many times as long
onnxruntime-genai takes. Exit status 1 where one is missed.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.peers import __main__ as peers
from benchmarks.peers.contenders import ENTRIES, Gate
from benchmarks.peers.rounds import Row
from benchmarks.peers.table import MEGABYTE, milliseconds, ratio

RATE: Final = 50
"""Tokens of a second of speech."""

TOGETHER, GENAI = "together-int4", "genai-int4"
EVERYBODY: Final = ("growing-fp32", "optimum-fp32", GENAI, "ours-int4", TOGETHER, "taught-int4")
POINTS: Final = (384, 6000)

RATIOS: Final = {384: 4.5, 6000: 11.0}
"""Gates: onnxruntime-genai's time over that of all three together, by tokens of context."""


def show(rows: dict[str, Row]) -> bool:
    """Print the table and a line for each gate that was measured; True where all are met."""
    points = sorted({point for row in rows.values() for point in row.steps})
    heads = ["", *(f"a second of speech at {point} tokens" for point in points), "peak MB", "disk MB"]
    print(f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), sep="\n")
    for name, row in rows.items():
        cells = [_cell(rows, name, point) for point in points]
        cells += [" … ".join(f"{peak / MEGABYTE:.0f}" for peak in row.peaks.values()), f"{row.size / MEGABYTE:.0f}"]
        error = f": **{row.error.replace('|', '/')}**" if row.error else ""
        print(f"| {ENTRIES[name].title}{error} | {' | '.join(cells)} |")
    print()
    met = [_judge(point, _times(rows, GENAI, point), limit) for point, limit in RATIOS.items()]
    return all(met)


def _times(rows: dict[str, Row], name: str, point: int) -> float:
    """How many times as long as all three together."""
    return ratio(rows, Gate(name, point, TOGETHER, 0))


def _cell(rows: dict[str, Row], name: str, point: int) -> str:
    """Seconds of work, and how many times those of all three together."""
    value, times = RATE * milliseconds(rows[name], point) / 1e3, _times(rows, name, point)
    if math.isnan(value):
        return "–"
    return f"{value:.3f} s" if name == TOGETHER or math.isnan(times) else f"{value:.3f} s ({times:.1f} ×)"


def _judge(point: int, found: float, limit: float) -> bool:
    """A gate's line; one that was not measured is met."""
    if math.isnan(found):
        return True
    met = found >= limit
    print(
        f"{'ok  ' if met else 'MISS'} onnxruntime-genai int4 / all three at {point}: {found:.2f} (at least {limit:g})"
    )
    return met


def main(argv: Sequence[str] | None = None, config: dict[str, Any] | None = None) -> int:
    """Measure and print."""
    return peers.main(argv, config, peers.Table(__doc__ or "", EVERYBODY, POINTS, show))


if __name__ == "__main__":
    sys.exit(main())
