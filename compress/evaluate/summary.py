"""Rows → figures with their intervals, beside those of another evaluation, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sottovoce.compress.evaluate.nll import Likelihood
from sottovoce.compress.evaluate.rows import Row, runaway
from sottovoce.compress.evaluate.wer import Figure, Measure, difference, figure, meets, word_errors
from sottovoce.runtime.table import columns


def _distortion(row: Row) -> tuple[float, float] | None:
    """MCD in dB, of one utterance."""
    return None if row.mcd is None else (row.mcd, 1)


def _matched(row: Row) -> tuple[float, float] | None:
    """Whether the classifier names the prompted speaker."""
    return None if row.recognised is None else (row.recognised == row.speaker, 1)


def _runaway(row: Row) -> tuple[float, float]:
    """Whether it has run away or was cut."""
    return runaway(row), 1


@dataclass(frozen=True)
class Line:
    """A figure's name, how it is measured, and the scale and unit it is shown in."""

    name: str
    measure: Measure
    scale: float
    unit: str


LINES = (
    Line("wer", word_errors, 100, "%"),
    Line("runaways", _runaway, 100, "%"),
    Line("mcd", _distortion, 1, "dB"),
    Line("speaker match", _matched, 100, "%"),
)


@dataclass(frozen=True)
class Summary:
    """Figures by name; `differences` are to another evaluation, over the utterances that both have.

    `speakers` holds the WER of each speaker; `rtf` is seconds of work per second of audio.
    """

    figures: dict[str, Figure]
    differences: dict[str, Figure]
    speakers: dict[str, Figure]
    rtf: float | None
    likelihood: Likelihood | None

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values: rates as shares of 1, distortions in dB."""
        return asdict(self)


def summarise(rows: Sequence[Row], base: Sequence[Row], likelihood: Likelihood | None) -> Summary:
    """The figures of `rows`, and how they differ from those of `base` (empty: from nothing)."""
    theirs = {row.job: row for row in reversed(base)}  # of rows of one job, a file has the last one made first
    shared = [row for row in rows if row.job in theirs]
    paired = [theirs[row.job] for row in shared]
    people = sorted({row.speaker for row in rows})
    busy = sum(row.busy_seconds or 0 for row in rows)
    seconds = sum(row.seconds for row in rows)
    return Summary(
        {line.name: f for line in LINES if (f := figure(rows, line.measure))},
        {line.name: f for line in LINES if (f := difference(shared, paired, line.measure))},
        {name: f for name in people if (f := figure([row for row in rows if row.speaker == name]))},
        busy / seconds if seconds else None,
        likelihood,
    )


def passes(summary: Summary, gate: float | None) -> bool:
    """Whether the WER is within `gate` points of the other evaluation's (None: there is no gate)."""
    return gate is None or meets(summary.differences["wer"], gate)


def table(summary: Summary) -> str:
    """The summary as lines of text."""
    rows = [("", "value", "95 %", "utterances", *(("difference", "95 %") if summary.differences else ()))]
    for line in LINES:
        if found := summary.figures.get(line.name):
            rows.append((f"{line.name}, {line.unit}", *_cells(found, line.scale), str(found.count)))
            if summary.differences:
                other = summary.differences.get(line.name)
                rows[-1] += _cells(other, line.scale, "+") if other else ("–", "–")
    for name, found in summary.speakers.items() if len(summary.speakers) > 1 else ():
        rows.append((f"  wer of {name}, %", *_cells(found, 100), str(found.count), *("",) * (len(rows[0]) - 4)))
    text = [columns(rows)] if summary.figures else []
    if (other := summary.differences.get("wer")) and (own := summary.figures["wer"]).count != other.count:
        text.append(f"  differences are over the {other.count} of {own.count} utterances that both have")
    if summary.rtf is not None:
        text.append(f"  real-time factor {summary.rtf:.3f}")
    return "\n".join([*text, *_likelihood(summary.likelihood)])


def _cells(found: Figure, scale: float, sign: str = "") -> tuple[str, str]:
    """A value and its interval."""
    return f"{scale * found.value:{sign}.2f}", f"[{scale * found.low:{sign}.2f}, {scale * found.high:{sign}.2f}]"


def _likelihood(found: Likelihood | None) -> list[str]:
    """Teacher-forced figures as a line."""
    if found is None:
        return []
    kl = "" if found.kl is None else f", KL to the teacher {found.kl:.4f}"
    of = f"{found.tokens} held-out tokens of {found.utterances} utterances, {found.left_out} left out"
    return [f"  NLL {found.nll:.4f}{kl} nats per token ({of})"]
