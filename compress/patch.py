"""TLDR (arXiv 2606.09019): a frozen decoder learns to read and speak in patches, by low-rank matrices and two nets.

Cross-entropy of the corpus's tokens alone: there is no teacher.
"""

from typing import Final

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.history import hear_itself
from sottovoce.compress.loop import Objective
from sottovoce.compress.recipe import PatchRecipe
from sottovoce.compress.spoken import SpokenLosses, weighted
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.manifest import PromptSpec

TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of the backbone that follow, those of attention and feed-forward: not in the paper.

Its 136.2 M trainable parameters speak for all of them: tests/compress/test_patch.py counts.
"""


class PatchObjective(Objective):
    """Cross-entropy over what can be spoken; the nets learn, and the backbone as far as its low-rank matrices go."""

    def __init__(self, student: PatchDecoder, prompt: PromptSpec, recipe: PatchRecipe, window: int | None) -> None:
        """`student` speaks as `prompt` says and sees `window` patches (None: all); its backbone is frozen here."""
        super().__init__()
        self.student = student.requires_grad_(True).train()
        self.window, self.prompt, self.slower = window, prompt, recipe.lora.lr / recipe.train.lr
        self.lora = _adapt(student, recipe)
        self.spoken = SpokenLosses(prompt, student.backbone.config.vocab_size, 0.0)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Sums over the batch's targets: `loss`, and `ce`, the same."""
        batch = hear_itself(batch, lambda ids: self._hidden(ids, batch), self.student.backbone, self.prompt)
        hidden = self._hidden(batch.ids, batch)
        return weighted(self.spoken(batch, (self.student.backbone, hidden), None), {"ce": 1.0})

    def _hidden(self, ids: Tensor, batch: Batch) -> Tensor:
        """The student's hidden states [B,T,d] of `ids` [B,T], laid out as `batch`."""
        hidden: Tensor = self.student(ids, batch.prefix, batch.lengths, self.window)
        return hidden

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
