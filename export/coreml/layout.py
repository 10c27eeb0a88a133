"""What the decoder package's functions take and give: names, shapes and types, by the cache contract.

decode   the token's embedding, its rotary rows, a mask over slots, the slot to write  → logits, caches
prefill  T tokens at once, padded where fewer are left; T slots to write               → caches (no logits: the last
         prefix token goes through decode)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sottovoce.export.coreml.modules import HEAD_ROWS
from sottovoce.models.config import DecoderConfig
from sottovoce.runtime.manifest import IoSpec, TensorSpec

HALF: Final = "tensor(float16)"
ALIGNED: Final = 32
"""Slots come in multiples of this: 64 bytes of half precision, what the engine pads a last axis to."""

DECODE, PREFILL = "decode", "prefill"


@dataclass(frozen=True)
class Layout:
    """Sizes of one decoder package: S slots, V' logits, T tokens per prefill run; caches are states where
    `stateful`."""

    config: DecoderConfig
    slots: int
    logits: int
    prefill: int
    stateful: bool

    @property
    def rotary(self) -> bool:
        """Whether positions come as rotary rows; learned ones are added to the embedding by the host."""
        return not self.config.traits.learned_positions

    def cache_names(self, stem: str = "past_key_values") -> list[str]:
        """Caches in order: keys and values of layer 0, of layer 1, …"""
        return [f"{stem}_{layer}_{part}" for layer in range(self.config.layers) for part in ("key", "value")]

    @property
    def cache_shape(self) -> tuple[int, ...]:
        """[1, H, D, S]: a key is a column, so that no product needs it turned."""
        return (1, self.config.kv_heads, self.config.head_dim, self.slots)

    def inputs(self, tokens: int) -> tuple[TensorSpec, ...]:
        """Of a function of `tokens` T, caches included unless they are states."""
        half = self.config.head_dim // 2
        rotary = {"rotary_cos": (1, 1, half, tokens), "rotary_sin": (1, 1, half, tokens)} if self.rotary else {}
        shapes = {
            "inputs_embeds": (1, self.config.hidden_size, 1, tokens),
            **rotary,
            "attention_bias": (1, 1, tokens, self.slots),
            "cache_write": (1, 1, tokens, self.slots),
        }
        caches = {} if self.stateful else dict.fromkeys(self.cache_names(), self.cache_shape)
        return tuple(TensorSpec(name, HALF, shape) for name, shape in (shapes | caches).items())

    def io(self, function: str) -> IoSpec:
        """Inputs and outputs of a function."""
        tokens = 1 if function == DECODE else self.prefill
        outputs = list(self._logits()) if function == DECODE else []
        if not self.stateful:
            outputs += [TensorSpec(name, HALF, self.cache_shape) for name in self.cache_names("present")]
        elif function == PREFILL:  # a function must give something
            outputs.append(TensorSpec("hidden", HALF, (1, self.config.hidden_size, 1, tokens)))
        return IoSpec(self.inputs(tokens), tuple(outputs))

    def _logits(self) -> Iterator[TensorSpec]:
        """`logits`, or `logits_0`, `logits_1`, … where one convolution would be too wide."""
        sizes = [min(HEAD_ROWS, self.logits - start) for start in range(0, self.logits, HEAD_ROWS)]
        for number, size in enumerate(sizes):
            yield TensorSpec("logits" if len(sizes) == 1 else f"logits_{number}", HALF, (1, size, 1, 1))
