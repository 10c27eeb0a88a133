"""Does the graph say what torch says? An independent loop over the cache contract, against the WAND mask in torch.

Nothing is shared with the runtime's loop on purpose. Slots that were never written hold large garbage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sottovoce.export.cache_scales import Scales, kept_hidden, rounding
from sottovoce.export.decoder import DATA, DecoderParts
from sottovoce.export.drive import Driven
from sottovoce.export.head import ids_of
from sottovoce.export.portable_drive import open_driver
from sottovoce.export.quantize import PER_CHANNEL
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.models.patch.checkpoint import PatchCheckpoint
from sottovoce.runtime.manifest import WeightFormat

FLOAT_ERROR = 1e-4
"""Gate: largest difference of any logit, float32 weights."""

HALF_ERROR = 0.02
"""Gate: largest logit error over the logits' deviation, float32 weights over a float16 cache, whose fused attention is
given queries, keys and values in half precision. Seen with two to six layers: 0.0015–0.0135."""

MARGIN = 0.1
"""Steps where torch's best two logits lie closer than this are anybody's choice; they are counted apart."""

ROUNDED_TOP1: dict[WeightFormat, float] = {"fp32": 0.98, "fp16": 0.98, "int8": 0.98, "int4": 0.90}
"""Gate: share of margin steps on which rounded weights choose as torch does, by the coarsest format. Seen on the
reference voice over its own speech, layers in int4 under a head in int8: 94 % in blocks of 32, 92 % in blocks of 128,
91 % in those over an int8 cache, 97 % calibrated."""

TABLE_TOP1 = 0.75
"""The same with head and embedding in int4: 83 % there, rounded to the nearest."""

WRAPS = 4
"""How often the ring goes round in `random_cases`, and what is asked for where it can."""

WORK = 2.4e11
"""Bytes of weights that all steps of `random_cases` may read together: about 600 steps of a 0.5 B decoder in int8."""

SHORT = 24
"""Steps of every case but one where all of them together would pass WORK."""


Source = Checkpoint | Decoder | PatchCheckpoint
"""Where torch's weights come from."""


@dataclass(frozen=True)
class Case:
    """A prefix of token ids, and the tokens fed after it; without any, `steps` of the graph's own greedy choice."""

    name: str
    prefix: tuple[int, ...]
    tokens: tuple[int, ...] | None
    steps: int = 0

    @property
    def length(self) -> int:
        """Tokens fed after the prefix."""
        return self.steps if self.tokens is None else len(self.tokens)


@dataclass(frozen=True)
class ParityReport:
    """Figures over all cases; `margin` figures count the steps where torch's two best logits differ by > 0.1.

    `kl` is KL(torch ‖ graph) of the distributions over the head's ids, nats per step.
    `wraps` is how often the ring went round in the longest case. `failures` words each gate that was applied and
    missed; empty means passed.
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
    kl: float
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One case: the tokens fed after its prefix, and logits [steps + 1, V'] of both sides (of patches [steps, V'])."""

    case: Case
    fed: tuple[int, ...]
    graph: np.ndarray
    torch: np.ndarray


class Sides(Protocol):
    """How the graph of one kind of voice is driven, and torch beside it."""

    def driver(self, exact: bool = False) -> Any:
        """The graph, open; `exact`: its integer kernels told to use float32."""

    def drive(self, case: Case, driver: Any) -> tuple[np.ndarray, list[int]]:
        """The graph's logits over a case, and the tokens fed after its prefix."""

    def expect(self, decoder: Any, prefix: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Torch's logits over the same."""


@dataclass(frozen=True)
class TokenSides:
    """Of a plain voice: the logits after the prefix and after each token."""

    folder: Path
    parts: DecoderParts
    threads: int = 1
    scales: Scales | None = None
    """By which torch rounds keys and values, as an int8 cache does (None: it does not)."""

    def driver(self, exact: bool = False) -> Driven:
        """See `Sides`."""
        return open_driver(self.folder, self.parts, self.threads, exact)

    def drive(self, case: Case, driver: Driven) -> tuple[np.ndarray, list[int]]:
        """See `Sides`."""
        return drive(case, driver, self.parts)

    def expect(self, decoder: Decoder, prefix: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """See `Sides`."""
        window, ids = self.parts.cache.groups[0].window, ids_of(self.parts.head.ids)
        return reference_logits(decoder, prefix, tokens, window, ids, self.scales)


def random_cases(parts: DecoderParts, *, max_steps: int | None = None, seed: int = 0) -> list[Case]:
    """Prefixes of 1, P − 1 and P random ids, each followed by random ids, and one greedy case; all WRAPS times round.

    Ids are those of the head, which every decoder has. A ring that cannot wrap below `max_position` (a full window) is
    driven as far as it goes. Where all cases together would pass WORK, the one with P ids gets what there is and the
    others are SHORT; `max_steps` caps each.
    """
    group, random = parts.cache.groups[0], np.random.default_rng(seed)
    ids = np.array(ids_of(parts.head.ids))
    cases = []
    for length in sorted({1, max(1, group.prefix - 1), group.prefix}):
        longest = min(max_steps or parts.max_position, parts.max_position - length)
        steps = min(step_counts(parts)[length < group.prefix], longest)
        prefix, tokens = (tuple(random.choice(ids, count).tolist()) for count in (length, steps))
        cases.append(Case(f"prefix {length}", prefix, tokens))
    greedy = min(steps, step_counts(parts)[1])
    return [*cases, Case(f"prefix {len(prefix)}, greedy", prefix, None, greedy)]


def step_tokens(parts: DecoderParts) -> int:
    """Tokens that a step says."""
    return parts.patch.size if parts.patch else 1


def step_counts(parts: DecoderParts) -> tuple[int, int]:
    """Steps of the longest random case and of each of the three others, before positions end."""
    wanted = WRAPS * (parts.cache.groups[0].window - 1) + 2
    affordable = int(WORK / parts.sizes[DATA])
    if 4 * wanted <= affordable:
        return wanted, wanted
    return max(min(wanted, affordable - 3 * SHORT), min(wanted, SHORT)), min(wanted, SHORT)


def wraps_of(cases: Sequence[Case], parts: DecoderParts) -> float:
    """How often the ring goes round in the longest case."""
    return max(case.length for case in cases) / step_tokens(parts) / (parts.cache.groups[0].window - 1)


def wrap_failure(wraps: float, parts: DecoderParts) -> Iterator[str]:
    """A line where the ring went round less often than asked for, though positions and WORK allow it."""
    group = parts.cache.groups[0]
    clip = parts.patch.clip if parts.patch else 0
    room = (
        parts.max_position - group.prefix - clip + -(-clip // step_tokens(parts))
    )  # its tokens, of which slots are fewer
    possible = min(step_counts(parts)[0], room // step_tokens(parts)) / (group.window - 1)
    if possible >= 1 and wraps < min(WRAPS, possible):
        yield f"the ring went round {wraps:.1f} times, {min(WRAPS, possible):.1f} are asked for"


def check_decoder(
    source: Source,
    folder: Path,
    parts: DecoderParts,
    cases: Sequence[Case] | None = None,
    *,
    trained: bool = False,
    threads: int = 1,
    sides: Sides | None = None,
) -> ParityReport:
    """Drive the graph in `folder` and torch over `cases` (`random_cases` by default) and compare every logit.

    `sides` (None: of a plain voice) say how.

    Gates: fp32 weights, error ≤ 1e-4 and identical greedy tokens (fp16 cache: error ≤ 0.02 of the logits' deviation
    instead) and a ring that went round; quantized weights or int8 caches, top-1 agreement ≥ 98 % on margin steps where
    the caller says that the decoder is `trained` and gave cases of its own kind of text. Random weights have no opinion
    worth keeping: there figures must be finite, and `check_written` judges.
    """
    cases = random_cases(parts) if cases is None else cases
    sides = sides or TokenSides(folder, parts, threads)
    return judge(compare(cases, sides, load(source)), parts, trained)


def load(source: Source) -> Any:
    """The decoder to compare with."""
    return source if isinstance(source, Decoder) else source.load()


def compare(cases: Sequence[Case], sides: Sides, decoder: Any) -> list[Compared]:
    """The graph first, since it chooses the tokens of a greedy case; torch over the same tokens after it."""
    driver = sides.driver()
    driven = [sides.drive(case, driver) for case in cases]
    del driver
    return [
        Compared(case, tuple(fed), logits, sides.expect(decoder, case.prefix, fed))
        for case, (logits, fed) in zip(cases, driven, strict=True)
    ]


def drive(case: Case, driver: Driven, parts: DecoderParts) -> tuple[np.ndarray, list[int]]:
    """The graph's logits [steps + 1, V'] over a case, and the tokens fed after its prefix."""
    ids = ids_of(parts.head.ids)
    driver.restart()
    logits, fed = [driver.prefill(list(case.prefix))], list(case.tokens or ())
    for step in range(case.length):
        if case.tokens is None:
            fed.append(ids[int(logits[-1].argmax())])
        logits.append(driver.step(fed[step]))
    return np.stack(logits), fed


@torch.no_grad()
def reference_logits(
    decoder: Decoder,
    prefix: Sequence[int],
    tokens: Sequence[int],
    window: int,
    head_ids: Sequence[int],
    scales: Scales | None = None,
) -> np.ndarray:
    """Torch's logits [len(tokens) + 1, V'] after the prefix and after each token, one pass under the WAND mask.

    With `scales`, keys and values are rounded as in an int8 cache.
    """
    ids = torch.tensor([[*prefix, *tokens]])
    mask = wand_mask(ids.shape[1], len(prefix), window)
    hidden = decoder(ids, mask=mask) if scales is None else kept_hidden(decoder, ids, mask, rounding(scales))
    logits: np.ndarray = decoder.logits(hidden[0, len(prefix) - 1 :], torch.tensor(head_ids)).numpy()
    return logits


def judge(compared: Sequence[Compared], parts: DecoderParts, trained: bool) -> ParityReport:
    """Figures and gates over all cases."""
    graph, expected = (np.concatenate([getattr(c, side) for c in compared]) for side in ("graph", "torch"))
    same = graph.argmax(-1) == expected.argmax(-1)
    best = np.sort(expected, axis=-1)[:, -2:]
    clear = best[:, -1] - best[:, 0] > MARGIN
    error, deviation = float(np.abs(graph - expected).max()), float(expected.std())
    greedy = [c for c in compared if c.case.tokens is None]
    report = ParityReport(
        cases=tuple(c.case.name for c in compared),
        steps=len(same),
        wraps=wraps_of([c.case for c in compared], parts),
        max_error=error,
        logits_std=deviation,
        relative_error=error / max(deviation, 1e-30),
        top1=float(same.mean()),
        margin_steps=int(clear.sum()),
        margin_top1=float(same[clear].mean()) if clear.any() else 1.0,
        greedy_identical=all(bool((c.graph.argmax(-1) == c.torch.argmax(-1)).all()) for c in greedy),
        kl=divergence(expected, graph),
        failures=(),
    )
    return replace(report, failures=tuple(_failures(report, parts, trained)))


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean KL(p ‖ q) in nats of N steps, p and q the softmax of logits [N,V'] each; NaN where a logit is none."""
    p, q = (torch.from_numpy(logits).log_softmax(-1) for logits in (expected, found))
    return float((p.exp() * (p - q)).sum(-1).mean())


def _least_top1(parts: DecoderParts) -> float:
    """What is asked of the formats that `parts` have."""
    return TABLE_TOP1 if parts.weights.head == "int4" else min(ROUNDED_TOP1[name] for name in parts.weights.formats)


def _failures(report: ParityReport, parts: DecoderParts, trained: bool) -> Iterator[str]:
    """A line for each gate that applies and was missed; written so that NaN misses it too."""
    exact, cache = parts.weights.formats == {"fp32"}, parts.cache.groups[0].dtype
    if exact and cache == "fp16":
        if not report.relative_error <= HALF_ERROR:
            yield f"logits differ by {report.relative_error:.1e} of their deviation, at most {HALF_ERROR} is allowed"
        yield from wrap_failure(report.wraps, parts)
    elif exact and cache == "fp32":
        if not report.max_error <= FLOAT_ERROR:
            yield f"logits differ by {report.max_error:.2e}, at most {FLOAT_ERROR:.0e} is allowed"
        if not report.greedy_identical:
            yield "greedy tokens differ from torch's"
        yield from wrap_failure(report.wraps, parts)
    elif not np.isfinite(report.relative_error):
        yield "logits are not finite"
    elif trained and not report.margin_steps:
        yield f"no step has a margin over {MARGIN}: there is nothing to judge quantized weights or caches by"
    elif trained and not report.margin_top1 >= (least := _least_top1(parts)):
        asked = f"top-1 agreement {report.margin_top1:.2%} on clear steps, at least {least:.0%} is asked for"
        less = {None: "", PER_CHANNEL: " (blocks lose less: --block 128)"}
        yield asked + less.get(parts.weights.block_size, " (a smaller --block or --calibrate loses less)")
