"""Rates and their intervals: what counts as an error, and that sentences are drawn whole and in pairs."""

import numpy as np
import pytest

from sottovoce.compress.evaluate.rows import Row
from sottovoce.compress.evaluate.wer import Figure, bootstrap, by_sentence, difference, figure, interval, meets, rate


def row(text: str, heard: str, speaker: str = "ada", seed: int = 1) -> Row:
    return Row(text, speaker, seed, 1.0, text, heard)


@pytest.mark.parametrize(
    ("heard", "wrong"),
    [("turn left here", 0), ("turn left", 1), ("turn it left here", 1), ("learn lift hear", 3), ("", 3)],
)
def test_every_kind_of_error_counts_once(heard: str, wrong: int) -> None:
    assert by_sentence([row("turn left here", heard)])["turn left here"].tolist() == [wrong, 3]


def test_words_are_pooled_before_they_are_divided() -> None:
    rows = [row("a b c d", "a b c d"), row("x", "y")]
    assert rate(by_sentence(rows)) == pytest.approx(1 / 5)


def test_utterances_of_a_sentence_are_drawn_together() -> None:
    """A hundred utterances of each sentence say no more about other sentences than one of each does."""
    few = [row(f"w{i}", "w0") for i in range(8)]
    many = [row(f"w{i}", "w0", seed=seed) for i in range(8) for seed in range(100)]
    widths = [np.ptp(interval(*bootstrap([by_sentence(rows)]))) for rows in (few, many)]
    assert widths[0] == pytest.approx(widths[1]) and widths[1] > 0.1


def test_a_difference_is_paired():
    """Two systems that fail on the same half of the sentences are no different, however wide their intervals."""
    texts = [f"a b c{i}" for i in range(40)]
    base = [row(t, t if i % 2 else "x") for i, t in enumerate(texts)]
    worse = [row(t, t.replace("a ", "") if i % 2 else "x") for i, t in enumerate(texts)]
    assert difference(base, base) == Figure(0.0, 0.0, 0.0, 40)
    found, alone = difference(worse, base), figure(worse)
    assert found is not None and alone is not None
    assert found.value == pytest.approx(1 / 6)
    assert 0 < found.low < 1 / 6 < found.high
    assert figure(base).high - figure(base).low > 0.2
    assert difference(worse, [row("other", "other")]) is None


def test_a_difference_is_within_a_speaker() -> None:
    """One who is hard to hear is not held against a run that has not come to the other one yet."""
    base = [row("a b", heard, speaker) for speaker, heard in (("ada", "a b"), ("bob", "x y"))]
    assert difference([row("a b", "x y", "bob")], base) == Figure(0.0, 0.0, 0.0, 1)
    seeds = [*base, row("a b", "x y", "bob", seed=2)]
    assert difference(seeds, base) == Figure(0.0, 0.0, 0.0, 3)


def test_a_difference_is_over_the_same_random_numbers() -> None:
    """What the base says by another seed is not held against, or for, the seed that both have."""
    base = [row("a b", "a b", seed=1), row("a b", "x y", seed=2)]
    assert difference([row("a b", "a b", seed=1)], base) == Figure(0.0, 0.0, 0.0, 1)
    assert difference([row("a b", "a b", seed=3)], base) is None


def test_what_was_not_measured_is_not_counted() -> None:
    rows = [row("a", "a"), row("b", "b", seed=2)]
    seeds = [row("a", "a", seed=seed) for seed in (1, 2)]
    assert difference(seeds, seeds, lambda r: (3.0, 1) if r.seed == 2 else None) == Figure(0.0, 0.0, 0.0, 1)
    assert figure(rows, lambda r: (3.0, 1) if r.seed == 2 else None) == Figure(3.0, 3.0, 3.0, 1)
    assert figure(rows, lambda r: None) is None


@pytest.mark.parametrize(("value", "high", "ok"), [(0.009, 0.019, True), (0.009, 0.021, False), (0.011, 0.015, False)])
def test_a_gate_bounds_the_difference_and_its_upper_end(value: float, high: float, ok: bool) -> None:
    assert meets(Figure(value, 0.0, high, 1000), 1.0) is ok
