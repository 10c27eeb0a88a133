"""Where a decoder looks while it speaks: the share of attention on the prefix, and on what it said, by distance.

What a window of W would leave of it is the paper's tool for choosing W (WAND, arXiv 2604.08558, table 2). Maps are made
a layer and some queries at a time and never kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sottovoce.compress.traces import QUERIES, attention_map
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask


@dataclass(frozen=True)
class Row:
    """An utterance as the decoder reads it: token ids, the first `prefix` of them the conditioning."""

    ids: tuple[int, ...]
    prefix: int


@dataclass(frozen=True)
class Mass:
    """Attention of generated tokens, the mean over them, all heads and all layers; the shares add up to 1.

    `prompt` is the share on the prefix, `generated` [N] float64 the one on the token n places back, 0 being itself;
    `tokens` counts the generated tokens that were looked at.
    """

    prompt: float
    generated: np.ndarray
    tokens: int

    def local(self, window: int) -> float:
        """Share, of what falls on generated tokens, that falls on the last `window` of them, the current one too."""
        return float(self.generated[:window].sum() / self.generated.sum())

    def coverage(self, window: int) -> float:
        """Share that a window of `window` keeps: the prefix and the last `window` generated tokens."""
        return self.prompt + float(self.generated[:window].sum())


@torch.no_grad()
def attention_mass(decoder: Decoder, rows: Sequence[Row], window: int | None = None) -> Mass:
    """Attention of `decoder` over `rows`, each with a generated token at least, under `window` where it has one."""
    config = decoder.config
    longest = max(len(row.ids) - row.prefix for row in rows)
    sums = torch.zeros(1 + longest, dtype=torch.float64)
    for row in rows:
        sums += _row_mass(decoder, row, window, longest)
    tokens = sum(len(row.ids) - row.prefix for row in rows)
    shares = (sums / (tokens * config.heads * config.layers)).numpy()
    return Mass(float(shares[0]), shares[1:], tokens)


def _row_mass(decoder: Decoder, row: Row, window: int | None, longest: int) -> Tensor:
    """Sums over layers, heads and generated queries: the prefix, then distances 0..longest-1; [1 + longest] float64."""
    visible = wand_mask(len(row.ids), row.prefix, window or len(row.ids))
    sums = torch.zeros(1 + longest, dtype=torch.float64)
    x, rotary = decoder.begin(torch.tensor([row.ids]))
    for layer in decoder.model.layers:
        q, k, v = layer.self_attn.project(layer.input_layernorm(x), rotary)
        for start in range(row.prefix, len(row.ids), QUERIES):
            queries = slice(start, min(start + QUERIES, len(row.ids)))
            _add_mass(sums, _map(q[0, :, queries], k[0], visible[0, :, queries]), start, row.prefix)
        x = x + layer.self_attn.attend(q, k, v, visible)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return sums


def _map(q: Tensor, k: Tensor, visible: Tensor) -> Tensor:
    """Attention of queries [heads,n,D] to keys [H,T,D], summed over heads: [n,T] float64."""
    return attention_map(q, k, visible).double().sum(0)


def _add_mass(sums: Tensor, attention: Tensor, start: int, prefix: int) -> None:
    """Add a map [n,T] of queries `start`… to `sums`: its prefix keys, and its generated keys by distance."""
    sums[0] += attention[:, :prefix].sum()
    query = torch.arange(start, start + len(attention))[:, None]
    distance = query - torch.arange(prefix, attention.shape[1])  # below 0 lies the future, which gets nothing
    sums[1:].index_add_(0, distance.clamp(min=0).flatten(), attention[:, prefix:].flatten())
