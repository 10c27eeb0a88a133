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

    Paired by sentence, over the same random numbers: utterances of seeds that `base` lacks are left out, unless it has
    said the sentence once for all of them, as a teacher does. A speaker's seeds count as one utterance, so that nobody
    who has said more of them weighs more. None where the two share nothing.
    """
    measured = [[row for row in side if measure(row) is not None] for side in (rows, base)]
    mine, theirs = (_seeds(side) for side in measured)
    once = {said for said, seeds in theirs.items() if len(seeds) == 1}
    shared = {said: seeds & theirs[said] for said, seeds in mine.items() if said in theirs}
    kept = [
        [row for row in side if (said := row.job[:2]) in shared and (said in once or row.seed in shared[said])]
        for side in measured
    ]
    if not kept[0]:
        return None
    tables = [_by_speakers(side, measure) for side in kept]
    draws = bootstrap(tables)
    return Figure(rate(tables[0]) - rate(tables[1]), *interval(draws[0] - draws[1]), len(kept[0]))


def _seeds(rows: Iterable[Row]) -> dict[tuple[str, str], set[int]]:
    """Seeds of what `rows` say, by text and speaker."""
    out: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        out.setdefault((row.text, row.speaker), set()).add(row.seed)
    return out


def meets(found: Figure, points: float) -> bool:
    """Whether a difference of WERs is at most `points`, and its upper end over them by no more than SLACK."""
    return 100 * found.value <= points and 100 * found.high <= points + SLACK
