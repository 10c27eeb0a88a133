"""Charts of a report as SVG that takes its ink from the page around it, so that they can be read in light and dark."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sottovoce.devices.report import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = "#010203"
"""Stands for the page's own colour of text until the SVG is written."""

COLOURS: Final = ("#4c8dd6", "#e0913a", "#c2504d", "#5aa469")
"""Of series: they can be told apart on white and on black."""

MEGABYTE: Final = 1e6


def memory_chart(report: Profile) -> str:
    """Memory over time as stacked areas, with the end of each stage; "" where nothing was sampled."""
    samples = report.samples
    if len(samples) < 2:
        return ""
    start = samples[0].time
    times = [sample.time - start for sample in samples]
    layers = {
        "anonymous": [sample.anonymous / MEGABYTE for sample in samples],
        "files": [sample.files / MEGABYTE for sample in samples],
        "swapped": [sample.swapped / MEGABYTE for sample in samples],
    }
    shown = {name: values for name, values in layers.items() if any(values)}

    def draw(axes: "Axes") -> None:
        axes.stackplot(times, list(shown.values()), labels=list(shown), colors=COLOURS)
        for stage in report.stages:
            if 0 < (ended := stage.ended - start) < times[-1]:
                axes.axvline(ended, color=INK, linewidth=0.6, linestyle=":")
                label = axes.annotate(f" {stage.name}", (ended, 1), xycoords=("data", "axes fraction"), fontsize=7)
                label.set(rotation=90, verticalalignment="top")
        axes.set_xlim(0, times[-1])
        axes.set_xlabel("seconds")
        axes.set_ylabel("MB")

    return _svg(draw, "Memory over time")


def step_chart(report: Profile) -> str:
    """Milliseconds of each step of the decoder: the first utterance and the last one; "" where there were none."""
    first, last = report.utterances[0].steps, report.utterances[-1].steps
    if not first and not last:
        return ""

    def draw(axes: "Axes") -> None:
        for name, steps, colour in (("first utterance", first, COLOURS[1]), ("last utterance", last, COLOURS[0])):
            axes.plot([second * 1e3 for second in steps], label=name, color=colour, linewidth=0.9)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("token")
        axes.set_ylabel("ms")

    return _svg(draw, "Step latency over tokens")


def _svg(draw: Callable[["Axes"], None], title: str) -> str:
    """A chart as an `svg` element that is as wide as its place; `draw` fills the axes."""
    import matplotlib
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    style = {**ink, "svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    return inline(file.getvalue())


def inline(text: str) -> str:
    """The `svg` element of an SVG file, in the page's colours and as wide as its place."""
    text = re.sub("<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    head, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
