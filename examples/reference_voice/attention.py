"""Attention as the recipe trains it: plain matrix products, and a guide that shows some heads where the text is read.

What is said at a fraction x of an utterance stands near the fraction x of its text. Some heads are paid for looking
there (guided attention, arXiv 1710.08969, here as a loss on attention mass); the guide then fades out.
"""

from types import MethodType

import torch
from torch import Tensor

from sottovoce.models.decoder import Attention, Decoder

GUIDED = (1, 2, 3)
"""Layers whose first head is guided."""

WIDTH = 0.08
"""Standard deviation of the guide, as a fraction of the utterance."""


def grouped_attention(self: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`Attention.attend` as plain matrix products, queries of a KV head stacked: at 200 tokens on a CPU this is
    faster than torch's own kernel. Leaves the loss of a guided head in `guide_loss`."""
    batch, heads, tokens, width = q.shape
    stacked = q.reshape(batch, self.kv_heads, -1, width) * width**-0.5
    scores = (stacked @ k.transpose(-1, -2)).unflatten(2, (-1, tokens))
    hidden = torch.full((tokens, tokens), -1e4, dtype=scores.dtype).triu(1)
    weights = (scores + hidden).softmax(-1)
    if self.guide is not None:
        mass = (weights[:, 0, 0].float() * self.guide).sum(-1)
        self.guide_loss = -torch.log(mass + 1e-3)[self.guide.sum(-1) > 0].mean()
    return self.o_proj((weights.flatten(2, 3) @ v).view(batch, heads, tokens, width).transpose(1, 2).flatten(2))


def use_grouped_attention(decoder: Decoder) -> None:
    """Make every layer of `decoder` attend by `grouped_attention`, unguided."""
    for layer in decoder.model.layers:
        layer.self_attn.guide = None
        layer.self_attn.attend = MethodType(grouped_attention, layer.self_attn)


def set_guide(decoder: Decoder, guide: Tensor | None) -> None:
    """Guide the heads of GUIDED by `guide` [B,T,T], or not at all."""
    for index in GUIDED:
        decoder.model.layers[index].self_attn.guide = guide


def guide_loss(decoder: Decoder) -> Tensor:
    """Mean loss of the guided heads in the last forward pass."""
    return torch.stack([decoder.model.layers[index].self_attn.guide_loss for index in GUIDED]).mean()


def diagonal(spans: list[tuple[int, int, int]], length: int) -> Tensor:
    """The guide [B, length, length] of rows with `spans` (text symbols, prefix length, speech codes): rows that choose
    a code weigh the text's columns by their distance from the diagonal; everything else is 0."""
    guide = torch.zeros(len(spans), length, length)
    for row, (text, prefix, codes) in zip(guide, spans, strict=True):
        said = (torch.arange(codes) + 0.5) / codes
        read = (torch.arange(text) + 0.5) / text
        row[prefix - 1 : prefix - 1 + codes, 1 : 1 + text] = torch.exp(-((said[:, None] - read) ** 2) / (2 * WIDTH**2))
    return guide
