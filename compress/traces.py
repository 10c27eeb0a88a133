"""What a decoder computes on its way, for another one to imitate: hidden states of layers, and their attention maps.

Maps are never held whole: a trace keeps queries and keys, and maps of some queries are made, compared and dropped.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sottovoce.models.decoder import Decoder

QUERIES = 128
"""Queries whose maps [B, heads, QUERIES, T] lie in memory at once."""


@dataclass
class Trace:
    """Of ids [B,T]: `embedded` [B,T,d] is what the first layer reads, `final` [B,T,d] follows the last norm.

    By layer number, of the layers asked for: the output `hidden` [B,T,d], and where maps are asked for, what they are
    made of in `attention`: rotated queries [B,heads,T,D] and keys [B,H,T,D].
    """

    embedded: Tensor
    final: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def trace(decoder: Decoder, ids: Tensor, mask: Tensor | None, layers: Collection[int], maps: bool) -> Trace:
    """Run `decoder` over ids [B,T] under `mask` (None: causal), keeping what `layers` compute."""
    x, rotary = decoder.begin(ids)
    found = Trace(embedded=x, final=x)
    for number, layer in enumerate(decoder.model.layers):
        q, k, v = layer.self_attn.project(layer.input_layernorm(x), rotary)
        x = x + layer.self_attn.attend(q, k, v, mask)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if number in layers:
            found.hidden[number] = x
            if maps:
                found.attention[number] = q, k
    found.final = decoder.model.norm(x)
    return found


def attention_map(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    """Attention [...,heads,n,T] of queries [...,heads,n,D] to keys [...,H,T,D]; `seen` bool broadcasts over heads."""
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def map_errors(
    mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], mask: Tensor | None, relative: bool
) -> Tensor:
    """Squared difference of two attention maps, the mean over heads and over the keys that a query sees: [B,T].

    Each map is given by its queries and keys, `mask` is as in `trace`; `relative` divides what a query sees by the mean
    square of `theirs`. What a gradient needs of a map is made again in the backward pass.
    """
    length = mine[0].shape[-2]
    pieces = []
    for start in range(0, length, QUERIES):
        queries = slice(start, min(start + QUERIES, length))
        seen = _seen(mask, queries, length, mine[0].device)
        given = (mine[0][..., queries, :], mine[1], theirs[0][..., queries, :], theirs[1], seen, relative)
        pieces.append(checkpoint(_piece_errors, *given, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(pieces, -1)


def _seen(mask: Tensor | None, queries: slice, length: int, device: torch.device) -> Tensor:
    """Rows `queries` of a mask [B,1,T,T], or of the causal one."""
    if mask is not None:
        return mask[..., queries, :]
    keys = torch.arange(length, device=device)
    return keys <= keys[queries, None]


def _piece_errors(q: Tensor, k: Tensor, other_q: Tensor, other_k: Tensor, seen: Tensor, relative: bool) -> Tensor:
    """`map_errors` of some queries: [B,n]."""
    wanted = attention_map(other_q, other_k, seen).float()
    squares = (attention_map(q, k, seen).float() - wanted).square().sum(-1)
    # Keys that no query sees would water the mean down, the more of them the longer the batch's padding.
    return (squares / (wanted.square().sum(-1) if relative else seen.sum(-1))).mean(-2)
