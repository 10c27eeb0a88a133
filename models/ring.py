"""The cache contract in torch, one token at a time: the readable reference that graphs and runtimes must agree with.

Slots of a buffer [1, H, P + W, D]: 0..P-1 prefix, P..P+W-2 ring of the last W − 1 generated tokens, P+W-1 scratch.
Keys lie rotated at their absolute position; slots never written are hidden, whatever they hold.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sottovoce.models.decoder import Attention, Decoder, Layer, Rotary


class RingDecoder:
    """A decoder with P + W cache slots per layer: `prefill` once, then `step` for each generated token."""

    def __init__(self, decoder: Decoder, prefix: int, window: int, fill: float = 0.0, size: int = 1) -> None:
        """Buffers hold `fill` at the start, which must not matter; a step stands for `size` tokens."""
        config = decoder.config
        self.decoder, self.prefix, self.window, self.size = decoder, prefix, window, size
        shape = (1, config.kv_heads, prefix + window, config.head_dim)
        self.keys = [torch.full(shape, fill) for _ in range(config.layers)]
        self.values = [torch.full(shape, fill) for _ in range(config.layers)]
        self.visible = torch.zeros(prefix + window, dtype=torch.bool)
        self.position = self.filled = self.generated = 0

    def prefill(self, ids: Tensor) -> Tensor:
        """Prefix tokens [1,T], T ≤ P, or a further chunk of them → logits [1,T,V]; fills the next T slots."""
        return self._logits(self.prefill_embedded(self.decoder.model.embed_tokens(ids)))

    def prefill_embedded(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """The same for whatever stands in the prefix: x [1,T,d] at `positions` [T], the next ones by default.

        Returns hidden states [1,T,d].
        """
        start, end = self.filled, self.filled + x.shape[1]
        where = torch.arange(self.position, self.position + x.shape[1]) if positions is None else positions
        causal = torch.ones(x.shape[1], self.prefix + self.window, dtype=torch.bool).tril(start)
        self.visible[start:end] = True
        hidden = self._forward(x, where, slice(start, end), causal & self.visible)
        self.filled, self.position = end, int(where[-1]) + 1
        return hidden

    def step(self, token: int) -> Tensor:
        """Feed generated token t → logits [1,1,V]: computed from the scratch slot, which then moves into the ring."""
        return self._logits(self.step_embedded(self.decoder.model.embed_tokens(torch.tensor([[token]]))))

    def step_embedded(self, x: Tensor) -> Tensor:
        """The same for whatever is generated: x [1,1,d], at the position of the last token that it stands for."""
        scratch = self.prefix + self.window - 1
        self.visible[scratch] = True
        where = torch.tensor([self.position + self.size - 1])
        hidden = self._forward(x, where, slice(scratch, scratch + 1), self.visible[None])
        self.advance()
        return hidden

    def advance(self) -> None:
        """Copy the scratch slot to ring slot P + t mod (W − 1)."""
        slot = self.prefix + self.generated % (self.window - 1)
        for buffer in (*self.keys, *self.values):
            buffer[:, :, slot] = buffer[:, :, -1]
        self.visible[slot] = True
        self.position += self.size
        self.generated += 1

    def _forward(self, x: Tensor, positions: Tensor, slots: slice, visible: Tensor) -> Tensor:
        """One pass over x [1,T,d] at `positions` [T], their keys and values written to `slots`."""
        return slot_hidden(self.decoder, x, positions, self.keys, self.values, slots, visible)

    @torch.no_grad()
    def _logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states."""
        return self.decoder.logits(hidden)


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
    x, positions = decoder.model.embed_tokens(ids), torch.arange(position, position + ids.shape[1])
    return decoder.logits(slot_hidden(decoder, x, positions, keys, values, slots, visible))


@torch.no_grad()
def slot_hidden(
    decoder: Decoder,
    x: Tensor,
    positions: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    slots: slice,
    visible: Tensor,
) -> Tensor:
    """As `slot_pass`, from what stands for the tokens at `positions` [T], [1,T,d], to hidden states after the norm."""
    x, rotary = decoder.begin(None, positions, x)
    for layer, cached_keys, cached_values in zip(decoder.model.layers, keys, values, strict=True):
        x = layer_pass(layer, x, rotary, cached_keys, cached_values, slots, visible)
    hidden: Tensor = decoder.model.norm(x)
    return hidden


@torch.no_grad()
def layer_pass(
    layer: Layer, x: Tensor, rotary: Rotary | None, keys: Tensor, values: Tensor, slots: slice, visible: Tensor
) -> Tensor:
    """One layer over x [1,T,d], its keys and values written to `slots` of [1,H,S,D]; see `slot_pass`."""
    attention: Attention = layer.self_attn
    q, keys[:, :, slots], values[:, :, slots] = attention.project(layer.input_layernorm(x), rotary)
    x = x + attention.attend(q, keys, values, visible)
    return x + layer.mlp(layer.post_attention_layernorm(x))
