"""Short-time spectra as fixed matrices: no complex numbers, so that they export to any engine."""

import math

import torch
from torch import Tensor


def dft_basis(size: int) -> Tensor:
    """Windowed real DFT `[2·(size/2+1), size]`: cosine rows, then negated sine rows, under a periodic Hann window."""
    n = torch.arange(size, dtype=torch.float64)
    k = torch.arange(size // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * k[:, None] * n[None, :] / size
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * n / size)
    return (torch.cat([torch.cos(angle), -torch.sin(angle)]) * window).float()


def inverse_basis(size: int, hop: int) -> Tensor:
    """Inverse of `dft_basis` for overlap-add at `hop`: `[2·(size/2+1), size]`, window and its overlap gain included."""
    n = torch.arange(size, dtype=torch.float64)
    k = torch.arange(size // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * k[:, None] * n[None, :] / size
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * n / size)
    gain = (window**2).sum() / hop
    # Every bin but the first and the last stands for its mirror image too.
    twice = torch.full((size // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1.0
    rows = torch.cat([twice * torch.cos(angle), -twice * torch.sin(angle)]) / size
    return (rows * window / gain).float()


def mel_filters(bins: int, count: int, rate: int) -> Tensor:
    """Triangular filters `[count, bins]`, evenly spaced on the HTK mel scale up to rate/2, unit peak."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    mels = torch.linspace(0, top, count + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    up = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp(min=0).float()
