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

Shape = tuple[int, ...]


def half_tensors(shapes: dict[str, Shape]) -> tuple[TensorSpec, ...]:
    """Tensors of half precision by name."""
    return tuple(TensorSpec(name, HALF, shape) for name, shape in shapes.items())


def cache_shapes(config: DecoderConfig, slots: int, stem: str = "past_key_values") -> dict[str, Shape]:
    """Caches of S = `slots` in order, keys and values of layer 0, of layer 1, …: [1, H, D, S] each.

    A key is a column, so that no product needs it turned.
    """
    names = (f"{stem}_{layer}_{part}" for layer in range(config.layers) for part in ("key", "value"))
    return dict.fromkeys(names, (1, config.kv_heads, config.head_dim, slots))


def read_shapes(config: DecoderConfig, tokens: int, slots: int) -> dict[str, Shape]:
    """What layers are told besides caches when T = `tokens` are read over S = `slots`."""
    half, learned = config.head_dim // 2, config.traits.learned_positions
    rotary = {} if learned else {"rotary_cos": (1, 1, half, tokens), "rotary_sin": (1, 1, half, tokens)}
    mask = (1, 1, tokens, slots)
    return {"inputs_embeds": (1, config.hidden_size, 1, tokens), **rotary, "attention_bias": mask, "cache_write": mask}


def logit_shapes(logits: int) -> Iterator[tuple[str, Shape]]:
    """`logits`, or `logits_0`, `logits_1`, … where one convolution would be too wide."""
    sizes = [min(HEAD_ROWS, logits - start) for start in range(0, logits, HEAD_ROWS)]
    for number, size in enumerate(sizes):
        yield "logits" if len(sizes) == 1 else f"logits_{number}", (1, size, 1, 1)


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
    def functions(self) -> tuple[str, ...]:
        """Of the package, the default one first."""
        return (DECODE, PREFILL)

    @property
    def rotary(self) -> bool:
        """Whether positions come as rotary rows; learned ones are added to the embedding by the host."""
        return not self.config.traits.learned_positions

    def caches(self, function: str = DECODE, stem: str = "past_key_values") -> dict[str, Shape]:
        """Shapes of the caches of a function by name, in order: all functions have the backbone's."""
        return cache_shapes(self.config, self.slots, stem)

    def states(self, function: str) -> dict[str, Shape]:
        """Those that Core ML keeps; functions with the same names share them."""
        return self.caches(function) if self.stateful else {}

    def passed(self, function: str) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Those that come in, and go out."""
        if self.stateful:
            return {}, {}
        return self.caches(function), self.caches(function, "present")

    def io(self, function: str) -> IoSpec:
        """Inputs and outputs of a function, caches included unless they are states."""
        tokens = 1 if function == DECODE else self.prefill
        inputs, outputs = read_shapes(self.config, tokens, self.slots), dict[str, Shape]()
        if function == DECODE:
            outputs |= logit_shapes(self.logits)
        elif self.stateful:  # a function must give something
            outputs["hidden"] = (1, self.config.hidden_size, 1, tokens)
        past, present = self.passed(function)
        return IoSpec(half_tensors(inputs | past), half_tensors(outputs | present))
