"""What the functions of a patch voice's package take and give; caches of each function are called alike, but states.

compress  the tokens of a patch, their share in the mean, what hides padding; caches of 32 slots or more → the patch
prefill   as in any voice, of places: a token of text, or a patch
decode    one place, and the speaker                                → keys and values that the extractor is told, caches
extract   what stands before a token of the patch, what was told    → logits, caches of a slot for each token or more
"""

from dataclasses import dataclass
from typing import Final

from sottovoce.export.coreml.layout import (
    ALIGNED,
    DECODE,
    PREFILL,
    Layout,
    Shape,
    cache_shapes,
    half_tensors,
    logit_shapes,
    read_shapes,
)
from sottovoce.models.patch.config import PatchConfig
from sottovoce.runtime.manifest import IoSpec

COMPRESS: Final = "compress"
EXTRACT: Final = "extract"


def aligned(count: int) -> int:
    """`count` rounded up to whole lines of the engine's memory."""
    return -(-count // ALIGNED) * ALIGNED


@dataclass(frozen=True)
class PatchLayout(Layout):
    """Sizes of a patch voice's package."""

    patches: PatchConfig

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Layout`."""
        return (DECODE, PREFILL, COMPRESS, EXTRACT)

    @property
    def columns(self) -> int:
        """Tokens that a run of `compress` reads, padding included."""
        return aligned(self.patches.patch)

    @property
    def ring(self) -> int:
        """Slots of the compressor: while k tokens are written, the w − 1 before them are still there."""
        return aligned(self.patches.window - 1 + self.patches.patch)

    def io(self, function: str) -> IoSpec:
        """See `Layout`."""
        if function == PREFILL:
            return super().io(function)
        inputs, outputs = {DECODE: self._decode, COMPRESS: self._compress, EXTRACT: self._extract}[function]()
        past, present = self.passed(function)
        return IoSpec(half_tensors(inputs | past), half_tensors(outputs | present))

    def caches(self, function: str = DECODE, stem: str = "past_key_values") -> dict[str, Shape]:
        """See `Layout`; the nets have their own, `compress` none where patches are means alone."""
        patches = self.patches
        if function == EXTRACT:
            return cache_shapes(patches.extractor_layers.tokens(self.config), aligned(patches.patch), stem)
        if function != COMPRESS:
            return super().caches(function, stem)
        if patches.compressor == "mean":
            return {}
        return cache_shapes(patches.compressor_layers.tokens(self.config), self.ring, stem)

    def states(self, function: str) -> dict[str, Shape]:
        """See `Layout`: a package has one state of a name, and the nets' have other sizes."""
        stem = {COMPRESS: "compressor", EXTRACT: "extractor"}.get(function, "past_key_values")
        return self.caches(function, stem) if self.stateful else {}

    def told(self) -> dict[str, Shape]:
        """Keys and values [1,h,m,D] of what each of the extractor's layers is told."""
        shape, count = self.patches.extractor_layers.cross(self.config), self.patches.extractor_layers.layers
        names = (f"told_{layer}_{part}" for layer in range(count) for part in ("key", "value"))
        return dict.fromkeys(names, (1, shape.heads, self.patches.slots, shape.head_dim))

    def _decode(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Inputs and outputs of `decode` but caches."""
        speaker = {"speaker": (1, self.config.hidden_size, 1, 1)} if self.patches.speaker == "pooled" else {}
        return read_shapes(self.config, 1, self.slots) | speaker, self.told()

    def _compress(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Inputs and outputs of `compress` but caches."""
        width, columns = self.config.hidden_size, self.columns
        embeds: dict[str, Shape] = {"inputs_embeds": (1, width, 1, columns), "token_share": (1, 1, 1, columns)}
        patch: dict[str, Shape] = {"patch": (1, width, 1, 1)}
        if self.patches.compressor == "mean":
            return embeds, patch
        shape = self.patches.compressor_layers.tokens(self.config)
        return embeds | read_shapes(shape, columns, self.ring) | {"patch_bias": (1, 1, 1, columns)}, patch

    def _extract(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Inputs and outputs of `extract` but caches."""
        shape, slots = self.patches.extractor_layers.tokens(self.config), aligned(self.patches.patch)
        return read_shapes(shape, 1, slots) | self.told(), dict(logit_shapes(self.logits))
