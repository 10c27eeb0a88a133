"""Finite scalar quantization (arXiv 2309.15505): a code is a tuple of digits, one per dimension."""

import math

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """Rounds each of `len(levels)` bounded dimensions to its number of levels."""

    reach: Tensor
    offset: Tensor
    basis: Tensor
    counts: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        """`levels`: values per dimension; the codebook has their product."""
        super().__init__()
        self.levels = levels
        count = torch.tensor(levels)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("counts", count, persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        self.register_buffer("reach", (count - 1) / 2 * 1.001, persistent=False)
        self.register_buffer("offset", (1 - count % 2) * 0.5, persistent=False)

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dims]` float → quantized values in [-1, 1], gradients straight through."""
        bounded = self._bound(x)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.counts // 2)

    def _bound(self, x: Tensor) -> Tensor:
        """`x` squeezed so that rounding gives `counts` different integers."""
        shift = torch.atanh(self.offset / self.reach)
        return torch.tanh(x + shift) * self.reach - self.offset

    def codes(self, x: Tensor) -> Tensor:
        """`[..., dims]` float → code numbers `[...]` int64."""
        digits = self._bound(x).round().long() + self.counts // 2
        return (digits * self.basis).sum(-1)

    def digits(self, codes: Tensor) -> Tensor:
        """Code numbers `[...]` → digits `[..., dims]` int64, each in 0..level-1."""
        return torch.div(codes[..., None], self.basis, rounding_mode="floor") % self.counts

    def values(self, codes: Tensor) -> Tensor:
        """Code numbers `[...]` → the quantized values `[..., dims]` that `forward` gives."""
        half = self.counts // 2
        return (self.digits(codes) - half).to(self.reach.dtype) / half
