"""TLDR (arXiv 2606.09019): a frozen decoder learns to read and speak in patches, by low-rank matrices and two nets.

Cross-entropy of the corpus's tokens alone, as in the paper; skew KL to the decoder as it was, where the recipe asks.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.history import hear_itself
from sottovoce.compress.loop import Objective
from sottovoce.compress.recipe import PatchRecipe
from sottovoce.compress.spoken import SpokenLosses, weighted
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.manifest import PromptSpec

TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of the backbone that follow, those of attention and feed-forward: not in the paper.

Its 136.2 M trainable parameters speak for all of them: tests/compress/test_patch.py counts.
"""


@dataclass(frozen=True)
class Windows:
    """What is seen of what was said, None for all of it: `patches` by the student, `tokens` by the teacher."""

    patches: int | None
    tokens: int | None


class PatchObjective(Objective):
    """Cross-entropy over what can be spoken; the nets learn, and the backbone as far as its low-rank matrices go."""

    def __init__(
        self,
        student: PatchDecoder,
        prompt: PromptSpec,
        recipe: PatchRecipe,
        windows: Windows,
        teacher: Decoder | None = None,
    ) -> None:
        """`student` speaks as `prompt` says; its backbone is frozen here, as `teacher` is, who is not its backbone.

        The teacher may be None where `loss.kl` is 0.
        """
        super().__init__()
        self.student = student.requires_grad_(True).train()
        self.teacher: Any = teacher.requires_grad_(False).eval() if teacher and recipe.loss.kl else None
        self.windows, self.prompt, self.slower = windows, prompt, recipe.lora.lr / recipe.train.lr
        self.lora, self.loss = _adapt(student, recipe), recipe.loss
        self.spoken = SpokenLosses(prompt, student.backbone.config.vocab_size, recipe.loss.skew)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Sums over the batch's targets: `loss`, `ce`, and `kl` where there is a teacher."""
        batch = hear_itself(batch, lambda ids: self._hidden(ids, batch), self.student.backbone, self.prompt)
        said = self.student.backbone, self._hidden(batch.ids, batch)
        known = (self.teacher, self._known(batch)) if self.teacher else None
        return weighted(self.spoken(batch, said, known), {"ce": self.loss.ce, "kl": self.loss.kl})

    def _hidden(self, ids: Tensor, batch: Batch) -> Tensor:
        """The student's hidden states [B,T,d] of `ids` [B,T], laid out as `batch`."""
        hidden: Tensor = self.student(ids, batch.prefix, batch.lengths, self.windows.patches)
        return hidden

    @torch.no_grad()
    def _known(self, batch: Batch) -> Tensor:
        """The teacher's hidden states [B,T,d] of the same tokens."""
        tokens = self.windows.tokens
        mask = None if tokens is None else wand_mask(batch.ids.shape[1], batch.prefix, tokens)
        known: Tensor = self.teacher(batch.ids, mask=mask)
        return known

    def share(self, name: str) -> float:
        """The low-rank matrices have a rate of their own."""
        return self.slower if ".lora_" in name else 1.0

    def schedule(self, step: int) -> dict[str, float | None]:
        """Nothing changes with the step."""
        return {}

    def merge(self) -> PatchDecoder:
        """The student, its backbone's matrices now what they were and what was learned beside them."""
        if self.lora is not None:
            self.lora[0].merge_and_unload()
            self.lora = None
        return self.student


def _adapt(student: PatchDecoder, recipe: PatchRecipe) -> tuple[LoraModel] | None:
    """Freeze the backbone and put low-rank matrices beside its own, in place; None for rank 0.

    In a tuple, where torch does not find what is a part of the student already.
    """
    student.backbone.requires_grad_(False)
    if recipe.lora.rank == 0:
        return None
    names = {name.rsplit(".", 1)[-1] for name, _ in student.backbone.model.layers.named_modules()}
    alpha = recipe.lora.scale * recipe.lora.rank
    config = LoraConfig(r=recipe.lora.rank, lora_alpha=alpha, target_modules=sorted(names & set(TARGETS)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.batch.seed)
        return (LoraModel(student.backbone, config, "default"),)
