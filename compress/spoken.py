"""What a student says beside what it should say: cross-entropy and skew KL over the tokens that can be spoken."""

from typing import Final

import torch
from torch import Tensor, nn

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.losses import cross_entropy_sum, skew_kl_sum
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import PromptSpec

PIECE: Final = 1024
"""Tokens whose logits are made at a time: they need not leave a processor's cache between softmax and loss."""

Voiced = tuple[Decoder, Tensor]
"""A decoder and its hidden states [B,T,d] after the final norm."""


class SpokenLosses(nn.Module):
    """Losses over codes and stop ids.

    Other rows of the head cannot be sampled in speech: they are neither compared nor moved by it.
    """

    spoken: Tensor
    row: Tensor

    def __init__(self, prompt: PromptSpec, vocab_size: int, skew: float) -> None:
        """Of a voice with that `prompt`; `skew` is α of the skew KL."""
        super().__init__()
        self.skew = skew
        codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
        ids = torch.tensor(sorted({*codes, *prompt.stop}))
        row = torch.full((vocab_size,), -1).scatter(0, ids, torch.arange(len(ids)))
        self.register_buffer("spoken", ids, persistent=False)
        self.register_buffer("row", row, persistent=False)

    def forward(self, batch: Batch, student: Voiced, teacher: Voiced | None) -> dict[str, Tensor]:
        """Sums over the batch's targets: `ce`, and `kl` where there is a teacher."""
        learned = batch.targets >= 0
        targets = self.row[batch.targets[learned]].split(PIECE)
        said = student[1][learned].split(PIECE)
        known = teacher[1][learned].split(PIECE) if teacher else (None,) * len(said)
        decoders = student[0], teacher[0] if teacher else None
        parts = [self._compare(decoders, *piece) for piece in zip(said, known, targets, strict=True)]
        return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}

    def _compare(
        self, decoders: tuple[Decoder, Decoder | None], said: Tensor, known: Tensor | None, targets: Tensor
    ) -> dict[str, Tensor]:
        """Sums over N tokens: hidden states of student and teacher [N,d], rows of `targets` [N]."""
        student, teacher = decoders
        logits = student.logits(said, self.spoken)
        ce = cross_entropy_sum(logits, targets)
        if teacher is None or known is None:
            return {"ce": ce}
        with torch.no_grad():
            wanted = teacher.logits(known, self.spoken)
        return {"ce": ce, "kl": skew_kl_sum(logits, wanted, self.skew)}


def weighted(sums: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """`sums`, and before them `loss`, their sum under `weights`."""
    return {"loss": torch.stack([weights[name] * value for name, value in sums.items()]).sum(), **sums}
