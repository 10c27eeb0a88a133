"""Teacher-forced likelihood of held-out speech: what small differences show in before words do.

Every token of the corpus, given the true ones before it, under the voice's own window; beside it, how far its
distribution is from another voice's: KL(p ‖ q), p the other one's. Both over codes and stop ids, which is all that can
be said.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from sottovoce.compress.corpus.batches import Batch, Batches
from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.corpus.tokens import Tokeniser
from sottovoce.compress.evaluate.torch_bundle import spoken_ranges
from sottovoce.compress.losses import cross_entropy_sum, skew_kl_sum
from sottovoce.compress.recipe import BatchRecipe
from sottovoce.errors import VoiceError
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.models.voice import Voice
from sottovoce.runtime.contract import token_ids
from sottovoce.runtime.manifest import HeadSpec

PIECE: Final = 1024
"""Tokens whose logits are made at a time."""

BATCH: Final = BatchRecipe(tokens=8192, seed=0)
"""Tokens that go through the decoder at a time, and the seed of the reference clips."""


@dataclass(frozen=True)
class Likelihood:
    """Means per token in nats: `nll`, and `kl` to another voice's distribution (None: there was none)."""

    tokens: int
    nll: float
    kl: float | None
    utterances: int
    left_out: int


class Listener:
    """A voice's decoder under its window, reduced to what can be said."""

    def __init__(self, voice: Voice) -> None:
        """Load the weights, float32, on the CPU."""
        spec = voice.complete()
        self.patches = voice.patches().load().eval() if spec.patch else None
        self.decoder: Decoder = self.patches.backbone if self.patches else voice.checkpoint.load().eval()
        self.window = spec.window
        self.ids = torch.from_numpy(token_ids(HeadSpec(spoken_ranges(spec.prompt))))

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states [N,d] at the N positions of `batch` that have a target."""
        if self.patches is not None:
            return self.patches(batch.ids, batch.prefix, batch.lengths, self.window)[batch.targets >= 0]
        mask = None if self.window is None else wand_mask(batch.ids.shape[1], batch.prefix, self.window)
        return self.decoder(batch.ids, mask=mask)[batch.targets >= 0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden [N,d] → logits [N,V'] of what can be said."""
        return self.decoder.logits(hidden, self.ids)


def held_out(voice: Voice, corpus: Path, cache: Path, state: PartialState, skip_bad: bool = False) -> Batches:
    """The batches of a corpus folder for `voice`, tokenised by all processes into `cache`; raises CorpusError."""
    tokeniser, listed = Tokeniser(voice, cache), read_corpus(corpus)
    tokeniser.prepare(listed, state.process_index, state.num_processes)
    state.wait_for_everyone()
    spoken = tokeniser.load(listed, skip_bad).spoken
    return Batches(spoken, voice.complete(), BATCH, voice.checkpoint.config.max_position)


def likelihood(voice: Voice, other: Voice | None, batches: Batches, state: PartialState) -> Likelihood:
    """Every usable utterance of `batches` once, with the clip of its first draw; processes share the batches.

    Raises VoiceError where `other` has other tokens than `voice`.
    """
    if other is not None and other.complete().prompt != voice.complete().prompt:
        raise VoiceError(
            f"{other.folder} has another prompt layout than {voice.folder}: their tokens mean other things"
        )
    mine, theirs = Listener(voice), None if other is None else Listener(other)
    sums = torch.zeros(3, dtype=torch.float64)
    for step in range(batches.steps_per_epoch):
        sums += _sums(batches.batch(step, state.process_index, state.num_processes), mine, theirs)
    tokens, nll, kl = reduce(sums, "sum").tolist()
    counts = len(batches.usable), len(batches.left_out)
    return Likelihood(int(tokens), nll / tokens, None if other is None else kl / tokens, *counts)


@torch.inference_mode()
def _sums(batch: Batch, mine: Listener, theirs: Listener | None) -> Tensor:
    """Tokens, NLL and KL of a batch, summed: [3] float64."""
    targets = torch.searchsorted(mine.ids, batch.targets[batch.targets >= 0])
    total = torch.zeros(3, dtype=torch.float64)
    hidden = mine.hidden(batch).split(PIECE)
    other = theirs.hidden(batch).split(PIECE) if theirs else hidden
    for own, foreign, wanted in zip(hidden, other, targets.split(PIECE), strict=True):
        logits = mine.logits(own)
        kl = skew_kl_sum(logits, theirs.logits(foreign), 0.0) if theirs else torch.zeros(())
        total += torch.stack([torch.tensor(float(len(wanted))), cross_entropy_sum(logits, wanted), kl]).double()
    return total
