"""Mel-cepstral distortion between two renderings of one text, their frames matched by dynamic time warping.

MCD = 10·√2 / ln 10 · √Σ (c_m − c'_m)², m = 1..13 (Kubichek 1993), the mean over the warping path, in dB: the rms
distance of two smoothed log spectra. `features.py` states the framing.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sottovoce.compress.evaluate.features import Cepstra, mel_cepstra
from sottovoce.runtime.session import Floats

DECIBELS: Final = 10 * math.sqrt(2) / math.log(10)


def distortion(audio: Floats, reference: Floats) -> float | None:
    """MCD in dB of two clips [S] at 16 kHz; None where one of them is silent."""
    mine, theirs = mel_cepstra(audio), mel_cepstra(reference)
    return warped_distance(mine, theirs) if len(mine) and len(theirs) else None


def warped_distance(a: Cepstra, b: Cepstra) -> float:
    """Mean distance in dB along the cheapest warping path of cepstra [N, M] and [K, M], both with frames.

    The path goes from both firsts to both lasts by steps of (1,0), (0,1) and (1,1), none of them weighted.
    """
    cost = DECIBELS * np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    total, steps = _last_corner(cost)
    return total / steps


def _last_corner(cost: NDArray[np.float64]) -> tuple[float, float]:
    """Cost and length of the cheapest path over `cost` [N, K], one anti-diagonal after the other.

    Diagonals are indexed by row + 1, so that index 0 stands for what lies outside.
    """
    rows, columns = cost.shape
    before = np.full((2, 2, rows + 1), np.inf)
    # [last diagonal but one, last one] × [totals, lengths]
    before[0, :, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        now = np.full((2, rows + 1), np.inf)
        first, last = max(0, diagonal - columns + 1), min(rows - 1, diagonal)
        i = np.arange(first, last + 1)
        came = np.stack([before[0][:, i], before[1][:, i], before[1][:, i + 1]])
        best = came[:, 0].argmin(0)
        chosen = came[best, :, np.arange(len(i))]
        now[0, i + 1] = chosen[:, 0] + cost[i, diagonal - i]
        now[1, i + 1] = chosen[:, 1] + 1
        before = np.stack([before[1], now])
    return float(before[1][0, rows]), float(before[1][1, rows])
