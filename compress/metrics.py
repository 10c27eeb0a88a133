"""What a training tells: a line on the terminal, a row of JSON per step in a file, and a plot of it all."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sottovoce.errors import OutputError
from sottovoce.models.checkpoint import write_atomic
from sottovoce.runtime.strict_json import decode_json

FILE = "metrics.jsonl"
PLOT = "metrics.png"

PAUSE = 10.0
"""Least seconds between two plain lines: a log file is read by people."""

_NOT_DRAWN = ("step", "tokens", "seconds")
_OPTIMISER = ("gradient", "lr")
_WIDE = 50.0
"""Ratio of largest to smallest value from which a curve is drawn on a logarithmic scale."""


class Metrics:
    """`metrics.jsonl` in a run's folder, and its progress line; the plot is drawn when the run ends or breaks."""

    def __init__(self, folder: Path, first: int, steps: int) -> None:
        """Of a run that goes on after step `first`, up to `steps`: rows beyond `first` will be made again."""
        self.folder, self.first, self.steps = folder, first, steps
        self.began = self.told = time.monotonic()
        self.progress = _progress()
        self.task = self.progress.add_task("", total=steps, completed=first)
        kept = "".join(json.dumps(row) + "\n" for row in read_rows(folder) if row["step"] <= first)
        write_atomic(folder / FILE, lambda path: path.write_text(kept, encoding="utf-8"))

    def __enter__(self) -> "Metrics":
        """Open the file and show the line."""
        self.file: IO[str] = (self.folder / FILE).open("a", encoding="utf-8")
        if self.progress.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the file and draw the plot."""
        if self.progress.console.is_terminal:
            self.progress.stop()
        # A disk that is full would refuse these too: what is told is the error that ended the run.
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self.file.close()
            draw(read_rows(self.folder), self.folder / PLOT)

    def row(self, row: Mapping[str, Any]) -> None:
        """Write the row of a step and move the line; raises OutputError where the disk refuses."""
        try:
            self.file.write(json.dumps({**row, "seconds": round(time.monotonic() - self.began, 2)}) + "\n")
            self.file.flush()
        except OSError as error:
            raise OutputError(f"{self.folder / FILE} cannot be written: {error.strerror}") from None
        self._tell(row)

    def _tell(self, row: Mapping[str, Any]) -> None:
        """The progress line, or now and then a plain one where nobody watches."""
        text = _summary(row)
        self.progress.update(self.task, completed=row["step"], description=text)
        now = time.monotonic()
        if self.progress.console.is_terminal or (now - self.told < PAUSE and row["step"] < self.steps):
            return
        self.told = now
        left = (now - self.began) / (row["step"] - self.first) * (self.steps - row["step"])
        print(f"step {row['step']}/{self.steps}: {text}, {left / 60:.0f} min left", file=sys.stderr, flush=True)


def _progress(console: Console | None = None) -> Progress:
    """A bar with what was last told, the step and the time left; on stderr where no console is given."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console or Console(file=sys.stderr))


def _summary(row: Mapping[str, Any]) -> str:
    """Losses and schedule in few words."""
    skip = (*_NOT_DRAWN, *_OPTIMISER)
    return ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in skip and v is not None)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` in `folder`; a last line that a kill cut short is left out."""
    path, rows = folder / FILE, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(decode_json(line))
        except ValueError:
            break
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot `rows` over their steps into the PNG `path`: the losses in one panel, everything else in one each."""
    if not rows:
        return
    names = [name for name in rows[-1] if name not in _NOT_DRAWN]
    split = names.index("lr")
    losses, schedule = names[:split], [name for name in names[split:] if name not in _OPTIMISER]
    panels = [losses, *([name] for name in (*schedule, *_OPTIMISER))]
    figure = Figure(figsize=(8, 2.2 * len(panels)), layout="constrained")
    steps = [row["step"] for row in rows]
    for axis, drawn in zip(figure.subplots(len(panels), sharex=True), panels, strict=True):
        for name in drawn:
            axis.plot(steps, [math.nan if row.get(name) is None else row[name] for row in rows], label=name)
        axis.legend(loc="upper right")
        axis.set_yscale("log" if drawn[0] in schedule and _is_wide(rows, drawn[0]) else "linear")
    axis.set_xlabel("step")
    write_atomic(path, lambda part: figure.savefig(part, format="png", dpi=100))


def _is_wide(rows: list[dict[str, Any]], name: str) -> bool:
    """Whether values span so much that a linear scale would hide the small ones."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and min(values) > 0 and max(values) / min(values) > _WIDE
