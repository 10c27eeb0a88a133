"""Mel-cepstral distortion against slow or exact answers."""

import numpy as np
import pytest

from sottovoce.compress.evaluate import features
from sottovoce.compress.evaluate.features import mel_cepstra, spoken_part
from sottovoce.compress.evaluate.mcd import DECIBELS, distortion, warped_distance

RNG = np.random.default_rng(3)


def slow_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Dynamic time warping cell by cell."""
    best: dict[tuple[int, int], tuple[float, int]] = {(-1, -1): (0.0, 0)}
    for i in range(len(a)):
        for j in range(len(b)):
            came = [best[p] for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p in best]
            total, steps = min(came, key=lambda pair: pair[0])
            best[i, j] = (total + DECIBELS * float(np.sqrt(((a[i] - b[j]) ** 2).sum())), steps + 1)
    total, steps = best[len(a) - 1, len(b) - 1]
    return total / steps


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 7), (6, 1), (9, 14), (14, 9), (12, 12)])
def test_warping_finds_the_cheapest_path(n: int, k: int) -> None:
    a, b = RNG.normal(size=(n, 13)), RNG.normal(size=(k, 13))
    assert warped_distance(a, b) == pytest.approx(slow_distance(a, b))


def test_tempo_costs_nothing() -> None:
    a = RNG.normal(size=(20, 13))
    assert warped_distance(a, np.repeat(a, [1, 2, 3, 1] * 5, axis=0)) == 0


def test_one_coefficient_off_by_a_tenth() -> None:
    a = np.zeros((5, 13))
    b = a.copy()
    b[:, 4] = 0.1
    assert warped_distance(a, b) == pytest.approx(10 * np.sqrt(2) / np.log(10) * 0.1)


def test_coefficients_are_those_of_a_cosine_series() -> None:
    """So that the distance is the rms difference of log spectra in dB, as its formula says."""
    angle = np.pi * (np.arange(features.MELS) + 0.5) / features.MELS
    wanted = np.zeros(features.ORDER)
    wanted[1], wanted[6] = 0.3, -0.2
    spectrum = 0.7 + 0.3 * np.cos(2 * angle) - 0.2 * np.cos(7 * angle)
    assert features._cosines().T @ spectrum == pytest.approx(wanted, abs=1e-12)
    rms = 20 / np.log(10) * np.sqrt(np.mean((spectrum - 0.7) ** 2))
    assert DECIBELS * np.sqrt((wanted**2).sum()) == pytest.approx(rms)


def speech(seconds: float = 0.5) -> np.ndarray:
    """Noise whose colour changes."""
    noise = RNG.normal(size=int(16000 * seconds)).astype(np.float32) * 0.1
    return np.where(np.arange(len(noise)) % 3200 < 1600, noise, np.convolve(noise, np.ones(8) / 8, "same"))


def test_level_and_silence_at_the_ends_do_not_count():
    audio = speech()
    padded = np.pad(0.25 * audio, (3200, 4800))
    assert distortion(padded, audio) < 0.1 * distortion(speech(), -np.cumsum(audio) / 50)
    assert distortion(1e-3 * audio, audio) < 1e-3  # the floor follows the level
    assert len(audio) - 800 < len(spoken_part(padded)) < len(audio) + 800


def test_silence_has_no_distortion() -> None:
    assert distortion(np.zeros(16000, np.float32), speech()) is None
    assert distortion(speech(), np.zeros(100, np.float32)) is None
    assert mel_cepstra(np.zeros(0, np.float32)).shape == (0, 13)
