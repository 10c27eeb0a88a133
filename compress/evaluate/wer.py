"""Rates over utterances with their intervals: word errors by jiwer, everything by a bootstrap over sentences.

A rate is Σ numerator / Σ denominator (word errors / words, dB / utterances, runaways / utterances). Utterances of one
sentence are not independent, whoever speaks and whatever the seed, so sums are kept per sentence and whole sentences
are drawn again; two systems are compared on the same draws.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jiwer
import numpy as np
from numpy.typing import NDArray

from sottovoce.compress.evaluate.rows import Row

DRAWS: Final = 4000
"""Resamplings of a bootstrap."""

SLACK: Final = 1.0
"""Points by which the upper end of a difference may pass its gate."""

Table = dict[str, NDArray[np.float64]]
"""Sentence → [numerator, denominator], summed over its utterances."""

Measure = Callable[[Row], tuple[float, float] | None]
"""Numerator and denominator of one row; None where it was not measured."""


def word_errors(row: Row) -> tuple[float, float]:
    """Substitutions, deletions and insertions of one row, and the words that were to be said."""
    words = len(row.said.split())
    if not row.heard:
        return words, words
    out = jiwer.process_words(row.said, row.heard)
    return out.substitutions + out.deletions + out.insertions, words


def by_sentence(rows: Iterable[Row], measure: Measure = word_errors) -> Table:
    """`measure` summed per sentence, over the rows that have it."""
    out: Table = {}
    for row in rows:
        if (found := measure(row)) is not None:
            out[row.text] = out.get(row.text, np.zeros(2)) + found
    return out


def _by_speakers(rows: Sequence[Row], measure: Measure) -> Table:
    """`measure` per sentence: each speaker's mean over seeds, summed over speakers."""
    out: Table = {}
    for speaker in {row.speaker for row in rows}:
        mine = [row for row in rows if row.speaker == speaker]
        counts = Counter(row.text for row in mine)
        for text, total in by_sentence(mine, measure).items():
            out[text] = out.get(text, np.zeros(2)) + total / counts[text]
    return out


def rate(table: Table) -> float:
    """Σ numerator / Σ denominator of a table that is not empty."""
    numerator, denominator = np.sum(list(table.values()), axis=0)
    return float(numerator / denominator)


def bootstrap(tables: Sequence[Table], draws: int = DRAWS) -> list[NDArray[np.float64]]:
    """Rates [draws] of each table, over the sentences that all have, under the same resampling of sentences."""
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    picks = np.random.default_rng(0).integers(len(shared), size=(draws, len(shared)))
    sums = [np.array([table[text] for text in shared])[picks].sum(1) for table in tables]
    return [total[:, 0] / total[:, 1] for total in sums]


def interval(samples: NDArray[Any]) -> tuple[float, float]:
    """2.5 and 97.5 percentiles."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Figure:
    """A rate, its 95 % interval, and how many utterances it is of."""

    value: float
    low: float
    high: float
    count: int


def figure(rows: Sequence[Row], measure: Measure = word_errors) -> Figure | None:
    """The rate of `measure` over `rows` with its interval; None where no row has it."""
    measured = [row for row in rows if measure(row) is not None]
    if not measured:
        return None
    table = by_sentence(measured, measure)
    return Figure(rate(table), *interval(*bootstrap([table])), len(measured))


def difference(rows: Sequence[Row], base: Sequence[Row], measure: Measure = word_errors) -> Figure | None:
    """How much higher the rate of `rows` is than that of `base`, over what both have said by the same speaker.

    Paired by sentence; None where they share none. Seeds need not be the same (a teacher has only one): each speaker's
    count as one utterance, so that nobody who has said more of them weighs more.
    """
    measured = [[row for row in side if measure(row) is not None] for side in (rows, base)]
    shared = set.intersection(*({(row.text, row.speaker) for row in side} for side in measured))
    if not shared:
        return None
    mine, theirs = ([row for row in side if (row.text, row.speaker) in shared] for side in measured)
    tables = [_by_speakers(side, measure) for side in (mine, theirs)]
    draws = bootstrap(tables)
    return Figure(rate(tables[0]) - rate(tables[1]), *interval(draws[0] - draws[1]), len(mine))


def meets(found: Figure, points: float) -> bool:
    """Whether a difference of WERs is at most `points`, and its upper end over them by no more than SLACK."""
    return 100 * found.value <= points and 100 * found.high <= points + SLACK
