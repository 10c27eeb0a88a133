"""GPTQ: columns are rounded one after the other, and those to come make up for the error (arXiv 2210.17323).

What counts is the product over inputs that were really seen: H = Σ x xᵀ over the voice's own speech. Columns in their
order, a block's scale searched when the block is reached. Letters: K inputs, N outputs of a linear module.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sottovoce.export.cache_scales import Utterance
from sottovoce.export.quantize import pack, quantized_shapes
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask

DAMPING = 0.01
"""Share of H's mean diagonal that is added to it (the paper's)."""

SHRINK = np.linspace(0.6, 1.15, 24, dtype=np.float32)
"""Scales that are tried, as shares of the one that reaches the weight furthest from 0."""


class Listener:
    """H of every linear module of a decoder's layers, one layer in memory at a time, in order."""

    def __init__(self, decoder: Decoder, utterances: Sequence[Utterance], window: int) -> None:
        """Embeds the utterances, each heard under a window of W = `window` tokens."""
        self._decoder, self._layer = decoder, -1
        self._moments: dict[str, np.ndarray] = {}
        self._heard = []
        with torch.no_grad():
            for prefix, tokens in utterances:
                ids = torch.tensor([[*prefix, *tokens]])
                x, rotary = decoder.begin(ids)
                self._heard.append((x, rotary, wand_mask(ids.shape[1], len(prefix), window)))

    def moments(self, module: str) -> np.ndarray:
        """H [K, K] float64 of `module` (`model.layers.3.mlp.up_proj`); layers are asked for in ascending order."""
        while self._layer < int(module.split(".")[2]):
            self._hear_next()
        return self._moments[module]

    def round(
        self, modules: tuple[str, ...], weight: np.ndarray, block: int, bits: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A `Rounding`: stacked modules read the same inputs."""
        return gptq(weight, self.moments(modules[0]), block, bits)

    @torch.no_grad()
    def _hear_next(self) -> None:
        """Send all utterances through one more layer."""
        self._layer += 1
        self._moments, layer = {}, self._decoder.model.layers[self._layer]
        linear = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        hooks = [module.register_forward_hook(partial(self._add, name)) for name, module in linear.items()]
        try:
            self._heard = [(layer(x, rotary, mask), rotary, mask) for x, rotary, mask in self._heard]
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        """Inputs [.., K] of a module join its H."""
        x, where = inputs[0].flatten(0, -2).double(), f"model.layers.{self._layer}.{name}"
        self._moments[where] = self._moments.get(where, 0) + (x.T @ x).numpy()


def gptq(weight: np.ndarray, moments: np.ndarray, block: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight [N, K] float32, H [K, K] float64 → packed values and scales as `quantize` returns them."""
    rows, columns = weight.shape
    packed_shape, scale_shape = quantized_shapes(rows, columns, block, bits)
    left, root = weight.astype(np.float64), _inverse_root(moments)
    zero, scales = 2 ** (bits - 1), np.zeros(scale_shape, np.float32)
    values = np.full((rows, scale_shape[1] * block), zero, np.uint8)
    for number, start in enumerate(range(0, columns, block)):
        end = min(start + block, columns)
        part, errors = left[:, start:end], np.zeros((rows, end - start))
        scales[:, number] = scale = _search(part, root.diagonal()[start:end], zero)
        for at in range(end - start):
            column = start + at
            steps = np.clip(np.rint(part[:, at] / np.where(scale == 0, 1, scale)), -zero, zero - 1)
            values[:, column] = steps + zero
            errors[:, at] = (part[:, at] - steps * scale) / root[column, column]
            part[:, at:] -= np.outer(errors[:, at], root[column, column:end])
        left[:, end:] -= errors @ root[start:end, end:]
    return pack(values.reshape(*scale_shape, block), bits).reshape(packed_shape), scales


def _inverse_root(moments: np.ndarray) -> np.ndarray:
    """Upper Cholesky factor [K, K] of the damped H's inverse; inputs that were never seen count as if they were."""
    damped, diagonal = moments.copy(), moments.diagonal()
    damped[np.diag_indices_from(damped)] += DAMPING * (diagonal.mean() or 1.0) + (diagonal == 0)
    root: np.ndarray = np.linalg.cholesky(np.linalg.inv(damped)).T
    return root


def _search(part: np.ndarray, root: np.ndarray, zero: int) -> np.ndarray:
    """The scale [N] of a block [N, n] that leaves the least error, columns weighed by 1 / `root`² [n]."""
    furthest = np.take_along_axis(part, np.abs(part).argmax(1)[:, None], 1)
    best, least = np.zeros(len(part), np.float32), np.full(len(part), np.inf)
    for share in np.concatenate([SHRINK, -SHRINK]):
        scale = (furthest / -zero * share).astype(np.float32)
        steps = np.clip(np.rint(part / np.where(scale == 0, 1, scale)), -zero, zero - 1)
        error = (np.square(steps * scale - part) / np.square(root)).sum(1)
        best, least = np.where(error < least, scale[:, 0], best), np.minimum(error, least)
    return best
