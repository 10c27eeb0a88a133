"""Does `decoder.onnx` say what torch says? An independent loop over the cache contract, against the WAND mask in torch.

Nothing is shared with the runtime's loop on purpose. Slots that were never written hold large garbage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sottovoce.export.decoder import DecoderParts
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.decoder import Decoder


@dataclass(frozen=True)
class Case:
    """A prefix of token ids, and the tokens fed after it; None lets the graph feed its own greedy choice."""

    name: str
    prefix: tuple[int, ...]
    tokens: tuple[int, ...] | None
    steps: int


@dataclass(frozen=True)
class ParityReport:
    """Figures over all cases; `margin` figures count the steps where torch's two best logits differ by > 0.1.

    `failures` names each gate that was applied and missed; empty means passed. `wraps` is how often the ring went round
    in the shortest case.
    """

    cases: tuple[str, ...]
    steps: int
    wraps: float
    max_error: float
    logits_std: float
    relative_error: float
    top1: float
    margin_steps: int
    margin_top1: float
    greedy_identical: bool
    failures: tuple[str, ...]


def random_cases(parts: DecoderParts, *, wraps: int = 4, max_steps: int | None = None, seed: int = 0) -> list[Case]:
    """Prefixes of 1, P − 1 and P random ids from the head, each teacher-forced and greedy, over `wraps` ring wraps.

    A ring that cannot wrap below `max_position` (a full window) is driven as far as it goes; `max_steps` caps it.
    """
    raise NotImplementedError


def check_decoder(
    source: Checkpoint | Decoder,
    folder: Path,
    parts: DecoderParts,
    cases: Sequence[Case] | None = None,
    *,
    trained: bool = False,
    threads: int = 1,
) -> ParityReport:
    """Drive the graph in `folder` and torch over `cases` (`random_cases` by default) and compare every logit.

    Gates: fp32 weights, error ≤ 1e-4 and identical greedy tokens; quantized weights, top-1 agreement ≥ 98 % on margin
    steps, only where the caller says that the decoder is `trained` and gave cases of its own kind of text (random
    weights have no opinion worth keeping: there the figures are reported and nothing gates).
    """
    raise NotImplementedError
