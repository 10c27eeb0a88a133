"""The cache contract in torch, one token at a time: the readable reference that graphs and runtimes must agree with.

Slots of a buffer [1, H, P + W, D]: 0..P-1 prefix, P..P+W-2 ring of the last W − 1 generated tokens, P+W-1 scratch.
Keys lie rotated at their absolute position; slots never written are hidden, whatever they hold.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sottovoce.models.decoder import Attention, Decoder


class RingDecoder:
    """A decoder with P + W cache slots per layer: `prefill` once, then `step` for each generated token."""

    def __init__(self, decoder: Decoder, prefix: int, window: int, fill: float = 0.0) -> None:
        """Buffers hold `fill` at the start, which must not matter."""
        config = decoder.config
        self.decoder, self.prefix, self.window = decoder, prefix, window
        shape = (1, config.kv_heads, prefix + window, config.head_dim)
        self.keys = [torch.full(shape, fill) for _ in range(config.layers)]
        self.values = [torch.full(shape, fill) for _ in range(config.layers)]
        self.visible = torch.zeros(prefix + window, dtype=torch.bool)
        self.position = self.generated = 0

    def prefill(self, ids: Tensor) -> Tensor:
        """Prefix tokens [1,T], T ≤ P, or a further chunk of them → logits [1,T,V]; fills the next T slots."""
        start, end = self.position, self.position + ids.shape[1]
        causal = torch.ones(ids.shape[1], self.prefix + self.window, dtype=torch.bool).tril(start)
        self.visible[start:end] = True
        logits = self._forward(ids, slice(start, end), causal & self.visible)
        self.position = end
        return logits

    def step(self, token: int) -> Tensor:
        """Feed generated token t → logits [1,1,V]: computed from the scratch slot, which then moves into the ring."""
        scratch = self.prefix + self.window - 1
        self.visible[scratch] = True
        logits = self._forward(torch.tensor([[token]]), slice(scratch, scratch + 1), self.visible[None])
        self.advance()
        return logits

    def advance(self) -> None:
        """Copy the scratch slot to ring slot P + t mod (W − 1)."""
        slot = self.prefix + self.generated % (self.window - 1)
        for buffer in (*self.keys, *self.values):
            buffer[:, :, slot] = buffer[:, :, -1]
        self.visible[slot] = True
        self.position += 1
        self.generated += 1

    def _forward(self, ids: Tensor, slots: slice, visible: Tensor) -> Tensor:
        """One pass over ids [1,T] at the next positions, their keys and values written to `slots`."""
        return slot_pass(self.decoder, ids, self.position, self.keys, self.values, slots, visible)


@torch.no_grad()
def slot_pass(
    decoder: Decoder,
    ids: Tensor,
    position: int,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    slots: slice,
    visible: Tensor,
) -> Tensor:
    """Ids [1,T] at `position` and on → logits [1,T,V]; keys and values [1,H,S,D] of each layer are written to `slots`.

    `visible` [T,S] bool says which of the S slots each of the T tokens sees.
    """
    x, rotary = decoder.begin(ids, torch.arange(position, position + ids.shape[1]))
    for layer, cached_keys, cached_values in zip(decoder.model.layers, keys, values, strict=True):
        attention: Attention = layer.self_attn
        q, k, v = attention.project(layer.input_layernorm(x), rotary)
        cached_keys[:, :, slots], cached_values[:, :, slots] = k, v
        x = x + attention.attend(q, cached_keys, cached_values, visible)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return decoder.logits(decoder.model.norm(x))
