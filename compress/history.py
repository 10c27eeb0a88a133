"""What a student hears of itself while it learns: alone, it hears nothing else.

Scheduled sampling in two passes (arXiv 1906.07651): what the student would say is drawn first, and stands in the
history of the pass that it learns from. Targets stay the corpus's; a teacher hears the same history.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from sottovoce.compress.corpus.batches import Batch
from sottovoce.compress.spoken import PIECE
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import PromptSpec

TEMPERATURE: Final = 0.5
"""Of what is drawn: sharper than what is learned, as voices sample. Chosen, not measured against others."""


@torch.no_grad()
def hear_itself(batch: Batch, hidden: Callable[[Tensor], Tensor], decoder: Decoder, prompt: PromptSpec) -> Batch:
    """`batch`, its history as the student says it wherever the batch's `drift` asks; codes alone are drawn.

    `hidden` maps ids [B,T] to the student's hidden states [B,T,d], of which `decoder` makes logits.
    """
    if batch.drift is None:
        return batch
    asked = batch.drift >= 0
    codes = slice(prompt.code_offset, prompt.code_offset + prompt.code_count)
    pieces = zip(hidden(batch.ids)[asked].split(PIECE), batch.drift[asked].split(PIECE), strict=True)
    said = [_draw(decoder.logits(states, codes), numbers) for states, numbers in pieces]
    ids = batch.ids.clone()
    ids[:, 1:][asked[:, :-1]] = torch.cat(said) + prompt.code_offset
    return replace(batch, ids=ids)


def _draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Logits [N,V] → indices [N] int64, by inverse CDF of `numbers` [N] in [0,1)."""
    shares = (logits.float() / TEMPERATURE).softmax(-1).cumsum(-1)
    # A cumulative sum ends near 1, not at it.
    return torch.searchsorted(shares, numbers[:, None] * shares[:, -1:], right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )
