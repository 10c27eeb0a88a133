"""The slope of memory over utterances: a leak is seen, noise and steps that do not add up are not."""

import numpy as np
import pytest
from benchmarks.steady_memory import slope_interval, verdict

TURNS = np.arange(160)
NOISE = np.random.default_rng(1).normal(0, 0.05, 160)
STEPS = np.repeat(np.random.default_rng(2).normal(0, 0.1, 16), 10)


@pytest.mark.parametrize(
    ("readings", "says"),
    [
        (100 + NOISE, "within noise"),
        (100 + STEPS, "within noise"),
        (100 + 0 * NOISE, "within noise"),
        (100 + 0.02 * TURNS + NOISE, "grows"),
        (100 + 100 * STEPS, "undecided"),
    ],
    ids=["noise", "steps", "flat", "leak", "wild"],
)
def test_verdict(readings, says: str) -> None:
    slope, low, high = slope_interval(readings)
    assert low <= slope <= high
    assert verdict(low, high, len(readings)).startswith(says)
