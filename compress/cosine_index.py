"""The cheap index of a layer: 1 − cos of what goes in and what comes out, the mean over tokens.

A layer that hardly turns its input is thought to be spared easily; SPADE's paper (arXiv 2509.20802) finds that word
errors tell better.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from sottovoce.compress.attention_mass import Row
from sottovoce.compress.layer_index import Round, Score
from sottovoce.compress.layers import keep_layers
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask


class CosineIndex:
    """Measures the layers of `decoder` over `rows`, under the voice's `window` where it has one."""

    def __init__(self, decoder: Decoder, rows: Sequence[Row], window: int | None) -> None:
        """Over at least one row."""
        self.decoder, self.rows, self.window = decoder, rows, window

    def __call__(self, dropped: tuple[int, ...], left: tuple[int, ...]) -> Round:
        """The scores of the layers `left`, the others being gone."""
        decoder = keep_layers(self.decoder, left)
        sums = sum((self._cosines(decoder, row) for row in self.rows), torch.zeros(len(left), dtype=torch.float64))
        tokens = sum(len(row.ids) for row in self.rows)
        scores = (1 - sums / tokens).clamp(min=0).tolist()  # rounding may leave a cosine above 1
        return Round(dropped, tuple(Score(layer, value) for layer, value in zip(left, scores, strict=True)))

    @torch.inference_mode()
    def _cosines(self, decoder: Decoder, row: Row) -> torch.Tensor:
        """Cosines of each layer's input and output, summed over a row's tokens: [L] float64."""
        mask = None if self.window is None else wand_mask(len(row.ids), row.prefix, self.window)
        x, rotary = decoder.begin(torch.tensor([row.ids]))
        found = []
        for layer in decoder.model.layers:
            before, x = x, layer(x, rotary, mask)
            found.append(F.cosine_similarity(before, x, dim=-1).double().sum())
        return torch.stack(found)
