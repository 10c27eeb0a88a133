"""Tokens → batches: rows of like length, drawn from a seed and a step, the same whatever the number of processes.

A row is `[prefix…, code, code, …]` and learns the codes and the stop that follow its prefix; the prefix is laid out as
the runtime does, with a clip of another utterance of the speaker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count as count_up
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sottovoce.compress.corpus.clips import Clips
from sottovoce.compress.corpus.tokens import Spoken
from sottovoce.compress.recipe import BatchRecipe
from sottovoce.errors import CorpusError
from sottovoce.models.voice import VoiceSpec
from sottovoce.runtime.prefix import fill_layout

IGNORED: Final = -100
"""Target of a position where nothing is learned; what torch's cross-entropy leaves out."""
SPREAD: Final = 0.05
"""Share by which a row's length is blurred before rows are sorted: neighbours change from one epoch to the next."""


@dataclass(frozen=True)
class Batch:
    """Rows, right-padded: `ids` [B,T] and `targets` [B,T] int64, IGNORED where nothing is learned.

    `prefix` [B] int64 counts the tokens of each row's prefix, `lengths` [B] int64 all of its tokens. Target t is what
    follows token t: the first one stands at `prefix` − 1, the last, a stop, at `lengths` − 1. `drift` [B,T] float32:
    where it is at least 0, the token after t is heard as the student draws it by that number in [0,1); −1 elsewhere
    (None: everywhere).
    """

    ids: Tensor
    targets: Tensor
    prefix: Tensor
    lengths: Tensor
    drift: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same on `device`."""
        return Batch(*(None if tensor is None else tensor.to(device) for tensor in self._tensors()))

    def _tensors(self) -> tuple[Any, ...]:
        """Every field, in order."""
        return self.ids, self.targets, self.prefix, self.lengths, self.drift


class Batches:
    """The batches of a run; batch `step` depends on the tokens, the voice, the recipe and `step` alone."""

    def __init__(
        self, spoken: Sequence[Spoken], spec: VoiceSpec, recipe: BatchRecipe, max_position: int | None = None
    ) -> None:
        """Of the utterances `spoken` of a voice; `left_out` lists those too long for it, its prefix or a batch.

        `max_position`: positions that the decoder has, None where they are no bound. Raises CorpusError where no
        utterance is left.
        """
        self.spoken, self.spec, self.recipe = spoken, spec, recipe
        self.clips = Clips(spoken, spec)
        self.spans = np.array([self._span(i) for i in range(len(spoken))], np.int64)
        problems = [self._problem(i, max_position) for i in range(len(spoken))]
        self.left_out = tuple(f"{s.id}: {why}" for s, why in zip(spoken, problems, strict=True) if why)
        self.usable = np.array([i for i, why in enumerate(problems) if why is None], np.int64)
        if not len(self.usable):
            raise CorpusError(f"no utterance of the corpus can be learned from: {'; '.join(self.left_out) or 'none'}")
        self.epoch = lru_cache(maxsize=2)(self._epoch)
        self._sizes: list[int] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every usable utterance comes once; other epochs differ by a few."""
        return len(self.epoch(0))

    def global_batch(self, step: int) -> list[int]:
        """Utterances that all processes together see in batch `step`, shortest first."""
        for number in count_up():
            if number == len(self._sizes):
                self._sizes.append(len(self.epoch(number)))
            if step < self._sizes[number]:
                return self.epoch(number)[step]
            step -= self._sizes[number]
        raise AssertionError("epochs do not end")

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The share of process `rank` of `world` in batch `step`.

        A share without rows is one row without targets: nothing is learned from it, and no process waits in vain for
        this one's gradients.
        """
        indices = self.global_batch(step)
        share = indices[rank::world]
        batch = self.collate(share or indices[:1], step)
        return batch if share else replace(batch, targets=torch.full_like(batch.targets, IGNORED))

    def collate(self, indices: Sequence[int], draw: int) -> Batch:
        """Rows of the utterances `indices`, each with the clip of its draw number `draw`."""
        chance = [np.random.default_rng([self.recipe.seed, draw, i]) for i in indices]
        rows = [self._row(i, rng) for i, rng in zip(indices, chance, strict=True)]
        lengths = [len(ids) - 1 for _, ids in rows]
        ids = np.full((len(rows), max(lengths)), self.spec.prompt.stop[0], np.int64)
        targets, drift = np.full_like(ids, IGNORED), np.full(ids.shape, -1, np.float32)
        for i, (prefix, row) in enumerate(rows):
            ids[i, : lengths[i]] = row[:-1]
            targets[i, prefix - 1 : lengths[i]] = row[prefix:]
            drift[i, prefix - 1 : lengths[i] - 1] = self._drift(lengths[i] - prefix, chance[i])
        prefixes = torch.tensor([prefix for prefix, _ in rows])
        heard = torch.from_numpy(drift) if self.recipe.history else None
        return Batch(torch.from_numpy(ids), torch.from_numpy(targets), prefixes, torch.tensor(lengths), heard)

    def _drift(self, codes: int, rng: np.random.Generator) -> np.ndarray:
        """For each of a row's codes a number in [0,1), or −1 where the corpus's own is heard: [codes] float32."""
        share = self.recipe.history * rng.random()
        numbers = rng.random((2, codes), np.float32)
        return np.where(numbers[0] < share, numbers[1], np.float32(-1))

    def _row(self, index: int, rng: np.random.Generator) -> tuple[int, list[int]]:
        """Tokens of the prefix, and all tokens of a row with the stop at its end."""
        prompt, spoken = self.spec.prompt, self.spoken[index]
        clip, words = self.clips.draw(index, rng)
        prefix = fill_layout(prompt, spoken.text.tolist(), clip.tolist(), words.tolist())
        return len(prefix), [*prefix, *(spoken.codes + prompt.code_offset).tolist(), prompt.stop[0]]

    def _span(self, index: int) -> int:
        """Tokens of a row with the longest clip that it may have."""
        spoken = self.spoken[index]
        return self.clips.fixed + len(spoken.text) + self.clips.longest(index) + len(spoken.codes)

    def _problem(self, index: int, max_position: int | None) -> str | None:
        """Why utterance `index` cannot be learned from; None where it can."""
        spoken, span = self.spoken[index], int(self.spans[index])
        limits = (
            (len(spoken.codes), self.spec.max_new_tokens, "codes, the voice's longest utterance has"),
            (len(spoken.text), self.spec.prompt.max_text_tokens, "text tokens, the voice takes"),
            (span, max_position or span, "tokens with its prefix, the decoder has positions for"),
            (span, self.recipe.tokens, "tokens with its prefix, a batch of the recipe holds"),
        )
        for found, allowed, what in limits:
            if found > allowed:
                return f"{found} {what} {allowed}"
        return self.clips.problem(index)

    def _epoch(self, number: int) -> list[list[int]]:
        """Batches of epoch `number`, each within the recipe's tokens with its padding, in random order."""
        rng = np.random.default_rng([self.recipe.seed, number])
        blurred = self.spans[self.usable] * (1 + SPREAD * rng.random(len(self.usable)))
        batches: list[list[int]] = [[]]
        longest = 0
        for i in self.usable[np.argsort(blurred, kind="stable")].tolist():
            longest = max(longest, int(self.spans[i]))
            if longest * (len(batches[-1]) + 1) > self.recipe.tokens:
                batches.append([])
                longest = int(self.spans[i])
            batches[-1].append(i)
        ordered = [sorted(batch, key=lambda i: (self.spans[i], i)) for batch in batches]
        return [ordered[i] for i in rng.permutation(len(ordered))]
