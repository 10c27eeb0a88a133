"""Step time over the length of the context, a line for each contender."""

from pathlib import Path

from benchmarks.peers.contenders import ENTRIES
from benchmarks.peers.rounds import Row
from benchmarks.peers.table import milliseconds
from sottovoce.runtime.output import written_whole


def draw(rows: dict[str, Row], title: str, path: Path) -> None:
    """A PNG; OutputError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, row in rows.items():
        times = [milliseconds(row, point) for point in row.steps]
        if times:
            style = "--" if ENTRIES[name].beside else "-"
            axes.plot(list(row.steps), times, style, marker=".", label=ENTRIES[name].title)
    axes.set(xlabel="tokens of context", ylabel="ms per step", ylim=(0, None))
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)
    with written_whole(path) as file:
        FigureCanvasAgg(figure).print_png(file)
