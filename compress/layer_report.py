"""A layer index for people: a table, and a bar chart."""

from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sottovoce.compress.layer_index import LayerIndex, Score
from sottovoce.models.checkpoint import write_atomic
from sottovoce.runtime.table import columns

KEPT, GONE = "#31688e", "#c9c9c9"


def table(index: LayerIndex, keep: int | None) -> str:
    """A line for each layer: its last score, and whether it is kept or when it goes (`keep` None: all may go)."""
    order = index.order()[: None if keep is None else index.layers - keep]
    heads = ("layer", "WER, %" if index.kind == "wer" else "1 − cosine", "95 %", "goes")
    goes = {layer: str(order.index(layer) + 1) if layer in order else "kept" for layer in range(index.layers)}
    rows = [(str(score.layer), *_cells(index, score), goes[score.layer]) for score in index.last_scores()]
    whole = index.rounds[0].whole
    told = "" if whole is None else f", WER of the whole voice {100 * whole:.2f} %"
    return f"{index.ranking} {index.kind} index over {index.source}{told}\n{columns([heads, *rows])}"


def _cells(index: LayerIndex, score: Score) -> tuple[str, str]:
    """A score and its interval."""
    if index.kind == "cosine":
        return f"{score.value:.4f}", "–"
    low, high = score.low or 0.0, score.high or 0.0
    return f"{100 * score.value:.2f}", f"[{100 * low:.2f}, {100 * high:.2f}]"


def draw(index: LayerIndex, keep: int | None, path: Path) -> None:
    """The last score of every layer as a bar, into the PNG `path`: pale where it goes; the whole voice is a line."""
    scale = 100 if index.kind == "wer" else 1
    gone = set(index.order()[: index.layers - keep]) if keep is not None else set()
    figure = Figure(figsize=(max(5.0, 0.4 * index.layers), 3.6), layout="constrained")
    axes = figure.subplots()
    for score in index.last_scores():
        ends = None
        if score.low is not None and score.high is not None:
            ends = [[scale * max(0.0, score.value - score.low)], [scale * max(0.0, score.high - score.value)]]
        colour = GONE if score.layer in gone else KEPT
        axes.bar(score.layer, scale * score.value, color=colour, yerr=ends, ecolor="black", capsize=2)
    marks: list[Artist] = [Patch(color=KEPT, label="kept"), Patch(color=GONE, label="goes")] if gone else []
    if (whole := index.rounds[0].whole) is not None:
        marks.append(axes.axhline(scale * whole, color="black", linestyle=":", linewidth=1, label="whole voice"))
    axes.set_xticks(range(index.layers))
    axes.set_xlabel("layer")
    axes.set_ylabel("WER without it, %" if index.kind == "wer" else "1 − cosine of input and output")
    axes.set_title(f"{index.ranking}, {index.utterances} utterances", fontsize=9)
    if marks:
        figure.legend(handles=marks, fontsize=8, loc="outside right upper")
    write_atomic(path, lambda part: figure.savefig(part, format="png", dpi=120))
