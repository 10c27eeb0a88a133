"""What torch says of a patch voice, and what to ask it: beside `verify.py`, whose figures and gates are the same."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sottovoce.export.coreml.verify import Passes, Side, columns, projected
from sottovoce.export.coreml.written import AnyDecoder
from sottovoce.export.parity import Case
from sottovoce.models.patch.decoder import PatchDecoder


@torch.no_grad()
def patch_reference(decoder: AnyDecoder, head: Tensor, case: Case, fed: Sequence[int], window: int) -> Side:
    """The `Reference` of a patch voice: caches of the backbone's places, of the compressor's tokens (the clip's, then
    those said), and of the extractor's, each with the number that the driver gives it."""
    assert isinstance(decoder, PatchDecoder)
    ids, count = torch.tensor([[*case.prefix, *fed]]), len(case.prefix)
    nets = decoder.backbone.model.layers, decoder.compressor.layers, decoder.extractor.layers
    attentions = [(layer.tokens if number else layer).self_attn for number, net in enumerate(nets) for layer in net]
    with projected(attentions) as made:
        hidden = decoder(ids, torch.tensor([count]), torch.tensor([ids.shape[1]]), window)
    first, second = len(nets[0]), len(nets[0]) + len(nets[1])
    backbone, extractor = _of_pass(made[:first], 0), _of_pass(made[second:], 0)
    # Where there is a clip, it is read first.
    clip, said = (_of_pass(made[first:second], number) for number in (0, -1))
    logits = (hidden[0, count - 1 :] @ head.T).numpy()
    return Side(logits, [*backbone, *clip, *extractor], [*backbone, *said, *extractor])


def _of_pass(made: Sequence[Passes], number: int) -> list[np.ndarray]:
    """Keys and values of each attention in one of its passes."""
    return [part for passes in made for part in columns(passes[number])]


def patch_cases(
    real: Sequence[int], full: Sequence[int], said: Sequence[int], steps: int, greedy: int, size: int
) -> list[Case]:
    """Cases as those of any voice, for patches of `size` tokens: `said` codes, again and again, after a `real` prefix
    for so many `steps`; after a `full` one; the package's own choice, `greedy` tokens long, but not past those steps.

    Each ends in the middle of a patch.
    """
    many = np.resize(np.array(said), steps * size - 1).tolist()
    own = min(max(greedy // size, 2), steps) * size - 1
    return [
        Case(f"prefix {len(real)}", tuple(real), tuple(many)),
        Case(f"prefix {len(full)}, full", tuple(full), tuple(many[: 2 * size - 1])),
        Case(f"prefix {len(real)}, greedy", tuple(real), None, own),
    ]


def full_prefix(text: Sequence[int], clip: Sequence[int], slots: int, size: int) -> tuple[int, ...]:
    """A prefix of exactly `slots` places: codes of `clip` in patches, the last of them not whole, as many as leave a
    word behind them; and words, taken in turn from `text`, everywhere else."""
    patches = min(-(-len(clip) // size), slots - 1)
    codes = list(clip[: max(0, patches * size - 1)])
    patches = -(-len(codes) // size)
    words = np.resize(np.array(text), slots - patches).tolist()
    return (*words[:-1], *codes, words[-1])
