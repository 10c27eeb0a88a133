"""WAND (arXiv 2604.08558): a pretrained decoder learns to speak from its prefix and a window of what it has said.

The teacher is the frozen decoder under full attention. The student starts as the same weights; its window closes from
a long one, and what lies outside fades before it is gone. Positions stay those of the whole sequence.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.history import hear_itself
from sottovoce.compress.loop import Objective
from sottovoce.compress.recipe import CurriculumRecipe, LossRecipe
from sottovoce.compress.spoken import SpokenLosses, weighted
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.runtime.manifest import PromptSpec


@dataclass(frozen=True)
class Curriculum:
    """W(t) and τ(t) of a run of `steps` towards `window`; `longest` is the longest utterance in generated tokens."""

    recipe: CurriculumRecipe
    window: int
    longest: int
    steps: int

    def at(self, step: int) -> tuple[int, float]:
        """Window and τ of update `step` (0..steps-1): a cosine, and a line on the logarithmic scale; at the end τ = ∞.

        Nothing is generated beyond the longest utterance, so a wider start would only stand still; one narrower than
        the final window starts at it.
        """
        closing = self.recipe.share * self.steps
        if step >= closing:
            return self.window, math.inf
        done = step / closing
        asked = self.longest if self.recipe.start == "longest" else min(self.recipe.start, self.longest)
        start = max(asked, self.window)
        window = start - 0.5 * (1 - math.cos(math.pi * done)) * (start - self.window)
        tau = self.recipe.tau_start ** (1 - done) * self.recipe.tau_end**done
        return round(window), tau


def soft_mask(length: int, prefix: Tensor, window: int, tau: float) -> Tensor:
    """−τ·M with M = 1 outside the window, −∞ for what is still to come: float32 [B, 1, length, length], for SDPA.

    `prefix` [B] as in `wand_mask`; τ = ∞ gives that mask itself, bool.
    """
    visible = wand_mask(length, prefix, window)
    if math.isinf(tau):
        return visible
    past = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    hidden = torch.zeros(past.shape, device=visible.device).masked_fill(~past, -math.inf)
    return hidden - tau * (past & ~visible)


class WindowObjective(Objective):
    """ce·CE on the corpus's tokens + kl·skew KL to the teacher, over the tokens that can be spoken."""

    def __init__(
        self, student: Decoder, teacher: Decoder | None, prompt: PromptSpec, loss: LossRecipe, curriculum: Curriculum
    ) -> None:
        """`teacher`, frozen here, may be None where `loss.kl` is 0."""
        super().__init__()
        self.student = student.requires_grad_(True).train()
        self.teacher: Any = teacher.requires_grad_(False).eval() if teacher and loss.kl else None
        self.loss, self.curriculum, self.prompt = loss, curriculum, prompt
        self.spoken = SpokenLosses(prompt, student.config.vocab_size, loss.skew)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Sums over the batch's targets: `loss`, `ce`, and `kl` where there is a teacher."""
        mask = soft_mask(batch.ids.shape[1], batch.prefix, *self.curriculum.at(step))
        batch = hear_itself(batch, lambda ids: self.student(ids, mask=mask), self.student, self.prompt)
        said = self.student, self.student(batch.ids, mask=mask)
        known = (self.teacher, self._known(batch.ids)) if self.teacher else None
        return weighted(self.spoken(batch, said, known), {"ce": self.loss.ce, "kl": self.loss.kl})

    def schedule(self, step: int) -> dict[str, float | None]:
        """W(t) and τ(t), None once the mask is hard."""
        window, tau = self.curriculum.at(step)
        return {"window": window, "tau": None if math.isinf(tau) else tau}

    @torch.no_grad()
    def _known(self, ids: Tensor) -> Tensor:
        """The teacher's hidden states [B,T,d] of `ids` [B,T]."""
        hidden: Tensor = self.teacher(ids)
        return hidden
