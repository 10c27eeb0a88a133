"""The slope of memory over utterances: a leak is seen however slow, noise, steps and warming up are told from it."""

import numpy as np
import pytest
from benchmarks.steady_memory import slope_interval, verdict

TURNS = np.arange(800)
NOISE = np.random.default_rng(1).normal(0, 0.05, 800)
STEPS = np.repeat(np.random.default_rng(2).normal(0, 0.1, 80), 10)


@pytest.mark.parametrize(
    ("readings", "says"),
    [
        (100 + NOISE, "within noise"),
        (100 + STEPS, "within noise"),
        (100 + 0 * NOISE, "within noise"),
        (100 + 0.02 * TURNS + NOISE, "grows"),
        (100 + 0.003 * TURNS + NOISE, "grows"),  # 3 kB an utterance
        (103 - 3 * np.exp(-TURNS / 60) + NOISE, "within noise (still warming up"),
        (100 + 100 * STEPS, "undecided"),
    ],
    ids=["noise", "steps", "flat", "leak", "slow leak", "warm-up", "wild"],
)
def test_verdict(readings, says: str) -> None:
    slope, low, high = slope_interval(readings)
    assert low - 1e-9 <= slope <= high + 1e-9
    assert verdict(readings).startswith(says)
