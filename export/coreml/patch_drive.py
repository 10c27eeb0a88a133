"""A driver of a patch voice's package, for verification only: see `drive.py`, and `patch_layout.py` for the functions.

It is fed a token at a time, as any voice: within a patch `extract` reads it, and the last one of a patch makes
`compress`, `decode` and `extract` read the patch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sottovoce.export.coreml.decoder import COMPRESS_POSITIONS, EXTRACT_POSITIONS, START
from sottovoce.export.coreml.drive import HIDDEN, CoreDriver, Engine, Slots, column, rotary_feeds
from sottovoce.export.coreml.patch_layout import COMPRESS, EXTRACT, PatchLayout

Feed = dict[str, np.ndarray]


class CorePatchDriver(CoreDriver):
    """One utterance after the other, token by token."""

    layout: PatchLayout

    def __init__(
        self, folder: Path, layout: PatchLayout, prefix: int, window: int, codes: range, engine: Engine | None = None
    ) -> None:
        """As `CoreDriver`, `window` in patches; `codes` are the ids that make patches in a prefix."""
        self._codes, self._start = codes, np.load(folder / START)
        self._extract_rows = np.load(folder / EXTRACT_POSITIONS)
        attention = layout.patches.compressor == "attention"
        self._compress_rows = np.load(folder / COMPRESS_POSITIONS) if attention else None
        super().__init__(folder, layout, prefix, window, engine)

    def restart(self) -> None:
        """Forget the utterance."""
        super().restart()
        self._speaker = np.zeros((1, self.layout.config.hidden_size), np.float16)
        self._prefix_tokens = self._heard = 0
        self._compressor = Slots(self._engine, self.layout, COMPRESS)
        self._extractor = Slots(self._engine, self.layout, EXTRACT)
        self._patch: list[int] = []
        self._told: Feed = {}

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Feed a prefix → logits [V'] of the first token."""
        k, clip = self.layout.patches.patch, [token for token in ids if token in self._codes]
        patches = [self._compress(clip[start : start + k]) for start in range(0, len(clip), k)]
        if patches:
            self._speaker = np.concatenate(patches).astype(np.float32).mean(0, keepdims=True).astype(np.float16)
        x, positions, codes = list[np.ndarray](), list[int](), 0
        for place, token in enumerate(ids):
            if token not in self._codes:
                x.append(self._embedding[[token]])
                positions.append(place)
            elif codes % k == 0:
                x.append(patches[codes // k])
                positions.append(place + min(k, len(clip) - codes) - 1)
            codes += token in self._codes
        self._prefix_tokens = len(ids)
        return self._begin(self._feed(np.concatenate(x), positions))

    def step(self, token: int) -> np.ndarray:
        """Feed one generated token → logits [V']."""
        self._patch.append(token)
        if len(self._patch) < self.layout.patches.patch:
            return self._extract(np.asarray(self._embedding[[token]]))
        if self._generated == 0:  # what is said is a stream of its own, over whatever the clip has left
            self._compressor.held, self._heard = {}, 0
        patch = self._compress(self._patch)
        position = self._prefix_tokens + self._heard - 1
        return self._begin(self._say(patch, position))

    def buffers(self) -> list[np.ndarray]:
        """The backbone's, the compressor's, the extractor's."""
        return [*super().buffers(), *self._compressor.buffers(), *self._extractor.buffers()]

    def held(self) -> list[dict[int, int]]:
        """Numbers of places; of tokens in their stream; of tokens that were generated."""
        nets = [[dict(net.held)] * len(net.names) for net in (self._compressor, self._extractor)]
        return [*super().held(), *nets[0], *nets[1]]

    def _begin(self, outputs: Feed) -> np.ndarray:
        """Logits of the first token of the patch that the backbone's word `outputs` is about."""
        self._told = {name: outputs[name] for name in self.layout.told()}
        self._patch, self._extractor.held = [], {}  # the last patch's keys stay, as garbage
        return self._extract(self._start)

    def _extract(self, x: np.ndarray) -> np.ndarray:
        """Feed what stands before token j of the patch, x [1, d], into slot j."""
        j = len(self._patch)
        self._extractor.held[j] = self._generated * self.layout.patches.patch + j
        feeds = {"inputs_embeds": column(x), **self._extractor.masks([j], 1), **self._told}
        return self._logits(self._extractor.run(EXTRACT, feeds | rotary_feeds(self._extract_rows[[j]])))

    def _compress(self, tokens: list[int]) -> np.ndarray:
        """The next tokens of the stream, k or the last few of a clip → their patch [1, d]; the rest is padding."""
        columns, count = self.layout.columns, len(tokens)
        rows = np.minimum(np.arange(columns), count - 1)
        share = np.where(np.arange(columns) < count, 1 / count, 0).astype(np.float16)
        feeds: Feed = {
            "inputs_embeds": column(self._embedding[np.array(tokens)[rows]]),
            "token_share": share[None, None, None],
        }
        if self._compress_rows is not None:
            numbers = [self._heard + number for number in range(count)]
            slots = [number % self.layout.ring for number in numbers]
            self._compressor.held |= dict(zip(slots, numbers, strict=True))
            feeds |= self._compressor.masks(slots, columns, self.layout.patches.window)
            feeds |= rotary_feeds(self._compress_rows[np.array(numbers)[rows]])
            feeds["patch_bias"] = np.where(np.arange(columns) < count, np.float16(0), HIDDEN)[None, None, None]
        outputs = self._compressor.run(COMPRESS, feeds)
        self._heard += count
        return outputs["patch"].reshape(1, -1)

    def _more(self, function: str) -> Feed:
        """The speaker, where `decode` is told."""
        told = function == "decode" and self.layout.patches.speaker == "pooled"
        return {"speaker": column(self._speaker)} if told else {}
