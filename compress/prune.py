"""SPADE (arXiv 2509.20802): some layers of a decoder learn to do the work of all of them.

The student is copies of the kept layers; the teacher is the whole decoder, frozen. Under a window both are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.history import hear_itself
from sottovoce.compress.loop import Objective
from sottovoce.compress.recipe import Matching, PruneLossRecipe
from sottovoce.compress.spoken import SpokenLosses, weighted
from sottovoce.compress.traces import Trace, map_errors, trace
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.models.voice import VoiceSpec


def matched_layers(kept: Sequence[int], layers: int, matching: Matching) -> tuple[int, ...]:
    """The teacher's layer, of `layers`, whose output each layer of a student made of `kept` imitates.

    Dynamic: the last one before the next kept layer, so that a layer learns what the span behind it did, too; the last
    imitates the last. Static: the one it is a copy of.
    """
    if matching == "static":
        return tuple(kept)
    return (*(following - 1 for following in kept[1:]), layers - 1)


class PruneObjective(Objective):
    """Weighted sum of cross-entropy, skew KL over what can be spoken, and mean squared errors of what layers compute.

    The errors are means over d, over heads and keys, and over the layers; of a row they are means over its tokens, the
    prefix too, counted once per target, as the other losses are. Relative ones are shares of the mean square of what
    is imitated, token by token: the few tokens of large activations then weigh no more than the rest. A layer's
    attention maps imitate those of the layer that it is a copy of: the paper does not tell, and those of the layer
    whose output it imitates taught less.
    """

    def __init__(
        self, student: Decoder, teacher: Decoder, spec: VoiceSpec, loss: PruneLossRecipe, kept: Sequence[int]
    ) -> None:
        """`student` is made of the layers `kept` of `teacher`, which is frozen here; both speak as `spec` says."""
        super().__init__()
        self.student = student.requires_grad_(True).train()
        self.teacher: Any = teacher.requires_grad_(False).eval()
        self.loss, self.window, self.prompt = loss, spec.window, spec.prompt
        self.outputs = tuple(enumerate(matched_layers(kept, teacher.config.layers, loss.matching)))
        self.maps = tuple(enumerate(kept))
        self.imitated = {other for _, other in self.outputs + self.maps}
        self.spoken = SpokenLosses(spec.prompt, student.config.vocab_size, loss.skew)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Sums over the batch's targets: `loss`, `ce`, `kl`, and the errors whose weight is above 0."""
        length = batch.ids.shape[1]
        mask = None if self.window is None else wand_mask(length, batch.prefix, self.window)
        batch = hear_itself(batch, lambda ids: self.student(ids, mask=mask), self.student, self.prompt)
        maps = self.loss.attention > 0
        mine = trace(self.student, batch.ids, mask, {own for own, _ in self.maps}, maps)
        with torch.no_grad():
            theirs = trace(self.teacher, batch.ids, mask, self.imitated, maps)
        sums: dict[str, Tensor] = self.spoken(batch, (self.student, mine.final), (self.teacher, theirs.final))
        share = _shares(batch)
        for name, errors in self._errors(mine, theirs, mask).items():
            sums[name] = (errors * share).sum()
        return weighted(sums, {name: getattr(self.loss, name) for name in sums})

    def schedule(self, step: int) -> dict[str, float | None]:
        """Nothing changes with the step."""
        return {}

    def _errors(self, mine: Trace, theirs: Trace, mask: Tensor | None) -> dict[str, Tensor]:
        """Squared errors [B,T] of each token, the means over everything else."""
        found, relative = {}, self.loss.errors == "relative"
        if self.loss.hidden:
            pairs = [_squared(mine.hidden[own], theirs.hidden[other], relative) for own, other in self.outputs]
            found["hidden"] = torch.stack(pairs).mean(0)
        if self.loss.attention:
            taken = [(mine.attention[own], theirs.attention[other]) for own, other in self.maps]
            found["attention"] = torch.stack([map_errors(*maps, mask, relative) for maps in taken]).mean(0)
        if self.loss.embedding:
            found["embedding"] = _squared(mine.embedded, theirs.embedded, relative)
        return found


def _squared(mine: Tensor, theirs: Tensor, relative: bool) -> Tensor:
    """Mean squared difference over d of [B,T,d], of `theirs` where `relative`: [B,T] float32."""
    theirs = theirs.float()
    squares = (mine.float() - theirs).square().mean(-1)
    return squares / theirs.square().mean(-1).clamp(min=torch.finfo(torch.float32).tiny) if relative else squares


def _shares(batch: Batch) -> Tensor:
    """What each token's errors count, [B,T] float32: a row's add up to its targets, padding counts nothing."""
    real = torch.arange(batch.ids.shape[1], device=batch.ids.device) < batch.lengths[:, None]
    return real * ((batch.targets >= 0).sum(1) / batch.lengths)[:, None]
