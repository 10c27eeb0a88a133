"""Speaking in patches, a token at a time: the readable reference that graphs and runtimes must agree with.

Three caches. The backbone's (`ring.py`): P prefix slots, and a ring of W patches. The compressor's: w slots, token t of
an utterance in slot t mod w, written before it is looked at. The extractor's: k slots, empty before every patch. Slots
that were never written are hidden, whatever they hold.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sottovoce.models.config import DecoderConfig
from sottovoce.models.patch.compressor import Compressor
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.extractor import Extractor
from sottovoce.models.patch.places import find_places
from sottovoce.models.ring import RingDecoder, layer_pass
from sottovoce.models.rope import rotary_table

Draw = Callable[[NDArray[np.float32]], int | None]
"""Logits [V'] of `PatchDecoder.spoken` → a token id, None for a stop: `Sampler.draw` of the runtime."""


class _Slots:
    """Keys and values [1,heads,S,D] of layers that see one token at a time."""

    def __init__(self, layers: Sequence[nn.Module], shape: DecoderConfig, size: int, fill: float) -> None:
        """S = `size` slots for each of `layers`, holding `fill`."""
        self.layers, self.shape = layers, shape
        room = (1, shape.kv_heads, size, shape.head_dim)
        self.keys, self.values = ([torch.full(room, fill) for _ in layers] for _ in range(2))
        self.visible = torch.zeros(1, size, dtype=torch.bool)

    def clear(self) -> None:
        """Hide all slots."""
        self.visible[:] = False

    def step(self, number: int, x: Tensor, position: int) -> Tensor:
        """Layer `number` over the token x [1,1,d] at `position`, which takes slot `position` mod S."""
        slot = position % self.visible.shape[1]
        self.visible[:, slot] = True
        rotary = rotary_table(self.shape, torch.tensor([position]))
        keys, values = self.keys[number], self.values[number]
        return layer_pass(self.layers[number], x, rotary, keys, values, slice(slot, slot + 1), self.visible)


class CompressorStream:
    """The compressor over what is said, patch by patch."""

    def __init__(self, compressor: Compressor, fill: float = 0.0) -> None:
        """Nothing has been said; slots hold `fill`, which must not matter."""
        self.compressor, self.position = compressor, 0
        tokens = [layer.tokens for layer in compressor.layers]
        self.slots = _Slots(tokens, compressor.shape, compressor.window, fill)

    @torch.no_grad()
    def patch(self, tokens: Tensor) -> Tensor:
        """The next k tokens, embedded [1,k,d] → their patch [1,1,d]."""
        seen: list[list[Tensor]] = [[] for _ in self.compressor.layers]
        for x in tokens.split(1, dim=1):
            for number, hidden in enumerate(seen):
                x = self.slots.step(number, x, self.position)
                hidden.append(x)
            self.position += 1
        real = torch.ones(tokens.shape[:2], dtype=torch.bool)
        patch = self.compressor.mean(tokens, real)
        for layer, hidden in zip(self.compressor.layers, seen, strict=True):
            patch = layer.look(patch, torch.cat(hidden, dim=1), real)
        return patch[None]


class ExtractorStream:
    """The extractor over one patch after the other."""

    def __init__(self, extractor: Extractor, patch: int, fill: float = 0.0) -> None:
        """`patch` tokens fit; slots hold `fill`, which must not matter."""
        self.extractor, self.position = extractor, 0
        self.told = torch.zeros(1, len(extractor.start))
        self.slots = _Slots([layer.tokens for layer in extractor.layers], extractor.shape, patch, fill)

    @torch.no_grad()
    def begin(self, context: Tensor, speaker: Tensor) -> Tensor:
        """Start a patch told by g = `context` [1,d] and s = `speaker` [1,d] → hidden state [d] of its first token."""
        self.told, self.position = self.extractor.told(context, speaker), 0
        self.slots.clear()
        return self.step(self.extractor.start)

    @torch.no_grad()
    def step(self, token: Tensor) -> Tensor:
        """Feed a token, embedded [d] → hidden state [d] of the one that follows."""
        x = token[None, None]
        for number, layer in enumerate(self.extractor.layers):
            x = self.slots.step(number, layer.condition(x, self.told), self.position)
        self.position += 1
        hidden: Tensor = self.extractor.norm(x)[0, 0]
        return hidden


class PatchStream:
    """One utterance: `prefill` once, then `patch` until it comes back short."""

    def __init__(self, decoder: PatchDecoder, prefix: int, window: int, fill: float = 0.0) -> None:
        """P = `prefix` positions, W = `window` patches, the current one included; caches hold `fill` at the start."""
        self.decoder = decoder
        self.backbone = RingDecoder(decoder.backbone, prefix, window, fill, decoder.config.patch)
        self.compressor = CompressorStream(decoder.compressor, fill)
        self.extractor = ExtractorStream(decoder.extractor, decoder.config.patch, fill)
        self.said: list[int] = []
        self.ended = False

    @torch.no_grad()
    def prefill(self, ids: Sequence[int]) -> None:
        """Read the prefix: its token ids with those of the clip, whose patches are a stream of their own."""
        row, count = torch.tensor([ids]), torch.tensor([len(ids)])
        places = find_places(row, count, count, self.decoder.codes, self.decoder.config.patch)
        x, self.speaker = self.decoder.read(self._embed(row), places)
        self.context = self.backbone.prefill_embedded(x, places.positions[0])[:, -1]

    @torch.no_grad()
    def patch(self, draw: Draw) -> list[int]:
        """The next k token ids, fewer where `draw` ends the utterance, none once it has."""
        if self.said and not self.ended:
            patch = self.compressor.patch(self._embed(torch.tensor([self.said])))
            self.context = self.backbone.step_embedded(patch)[:, -1]
        self.said = []
        while len(self.said) < self.decoder.config.patch and not self.ended:
            token = draw(self.decoder.logits(self._hidden()).numpy())
            self.ended = token is None
            self.said += [] if token is None else [token]
        return self.said

    def _hidden(self) -> Tensor:
        """The extractor's state [d] behind what has been said of the patch."""
        if not self.said:
            return self.extractor.begin(self.context, self.speaker)
        return self.extractor.step(self._embed(torch.tensor(self.said[-1])))

    def _embed(self, ids: Tensor) -> Tensor:
        """Embeddings of token ids."""
        embedded: Tensor = self.decoder.backbone.model.embed_tokens(ids)
        return embedded
