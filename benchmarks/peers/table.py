"""Rows as a Markdown table, and the gates between them."""

import math
import statistics
from collections.abc import Iterable

from benchmarks.peers.contenders import ENTRIES, GATES, Gate
from benchmarks.peers.rounds import Row

MEGABYTE = 1e6


def milliseconds(row: Row, point: int) -> float:
    """Median over turns; NaN where it was not measured."""
    return 1e3 * statistics.median(row.steps[point]) if point in row.steps else math.nan


def ratio(rows: dict[str, Row], gate: Gate) -> float:
    """What the gate is about, turn by turn, and the median of that; NaN where it was not measured."""
    first = rows.get(gate.name, Row()).steps.get(gate.point, [])
    other = rows.get(gate.other, Row()).steps.get(gate.other_point or gate.point, [])
    return statistics.median(a / b for a, b in zip(first, other, strict=False)) if first and other else math.nan


def table(rows: dict[str, Row], points: Iterable[int]) -> list[str]:
    """Markdown: a line for each row, its error in place of figures that it did not give."""
    points = list(points)
    heads = ["", *(f"{point} tokens" for point in points), "peak MB", "load s", "disk MB", "logits"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = [_cell(rows, name, point) for point in points]
        cells += [_peaks(row), f"{statistics.median(row.loads):.2f}" if row.loads else "–"]
        cells += [f"{row.size / MEGABYTE:.0f}" if row.size else "–"]
        cells += ["–" if row.agrees is None else f"{row.agrees:.3f}"]
        error = f": **{row.error.replace('|', '/')}**" if row.error else ""
        lines.append(f"| {ENTRIES[name].title}{error} | {' | '.join(cells)} |")
    return lines


def _cell(rows: dict[str, Row], name: str, point: int) -> str:
    """Milliseconds, and how many times this project's."""
    value, beside = milliseconds(rows[name], point), ENTRIES[name].beside
    if math.isnan(value):
        return "–"
    times = ratio(rows, Gate(name, point, beside, 0)) if beside else math.nan
    return f"{value:.1f} ms" if math.isnan(times) else f"{value:.1f} ms ({times:.2f} ×)"


def _peaks(row: Row) -> str:
    """After the first point and after the last."""
    first, *others = [f"{peak / MEGABYTE:.0f}" for peak in row.peaks.values()] or ["–"]
    return f"{first} … {others[-1]}" if others else first


def report(rows: dict[str, Row]) -> bool:
    """Print a line for each gate whose sides were measured; True where all of them are met."""
    missed = 0
    for gate in GATES:
        value = ratio(rows, gate)
        if math.isnan(value):
            continue
        other = f"at {gate.other_point}" if gate.other == gate.name else ENTRIES[gate.other].title
        met = value <= gate.limit
        missed += not met
        title = f"{ENTRIES[gate.name].title} at {gate.point} tokens / {other}"
        print(f"{'ok  ' if met else 'MISS'} {title}: {value:.3f} (at most {gate.limit:g})")
    return not missed
