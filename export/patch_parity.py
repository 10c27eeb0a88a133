"""Does the graph of a patch voice say what torch says? Its logits as those of any voice, and what it draws from them.

The graph gives tokens alone. So its logits are those of the same nodes over the same bytes, told what to say
(`patch_told.py`); and the file itself speaks freely: each token must be the one that the runtime's sampler draws, for
the same random numbers, from torch's logits (fp32) and from the graph's own (any weights).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from sottovoce.export.decoder import GRAPH, DecoderParts
from sottovoce.export.head import ids_of
from sottovoce.export.parity import Case, ParityReport, compare, judge, step_counts, step_tokens
from sottovoce.export.patch_drive import PatchDriver
from sottovoce.export.patch_told import tell
from sottovoce.export.variants import float_graph
from sottovoce.models.patch.checkpoint import PatchCheckpoint
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.manifest import PromptSpec, SamplingSpec
from sottovoce.runtime.sampling import Sampler

DRAWN = 0.99
"""Gate: share of the tokens drawn that are the sampler's: all of them, but where a uniform falls into the gap that
rounding leaves between two sums of probabilities. Seen: 100 %, of 600 tokens with untrained nets around the reference
voice, fp32 and int8."""

EVERY_RULE = SamplingSpec(
    temperature=0.9, top_k=30, top_p=0.95, repetition_penalty=1.2, repetition_window=9, ras_window=10, ras_tau=0.2
)

PATCHES = 50
"""Patches of each utterance that is drawn freely."""


@dataclass(frozen=True)
class PatchSides:
    """Of a patch voice: the logits over which each token is told; see `parity.Sides`."""

    folder: Path
    parts: DecoderParts
    prompt: PromptSpec
    threads: int = 1

    def open(self, model: onnx.ModelProto | None = None) -> PatchDriver:
        """The graph, or a variant of it, open."""
        codes = range(self.prompt.code_offset, self.prompt.code_offset + self.prompt.code_count)
        variant = None if model is None else model.SerializeToString()
        return PatchDriver(self.folder / GRAPH, self.parts, codes, self.threads, model=variant)

    def driver(self, exact: bool = False) -> PatchDriver:
        """See `Sides`."""
        graph = self.folder / GRAPH
        return self.open(tell(float_graph(graph) if exact else onnx.load(graph, load_external_data=False)))

    def drive(self, case: Case, driver: PatchDriver) -> tuple[np.ndarray, list[int]]:
        """See `Sides`; every case has its tokens."""
        assert case.tokens is not None
        return driver.follow(case.prefix, case.tokens), list(case.tokens)

    @torch.no_grad()
    def expect(self, decoder: PatchDecoder, prefix: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """See `Sides`."""
        ids = torch.tensor([[*prefix, *tokens[:-1]]])
        counts = torch.tensor([len(prefix)]), torch.tensor([ids.shape[1]])
        hidden = decoder(ids, *counts, self.parts.cache.groups[0].window)[0, len(prefix) - 1 :]
        logits: np.ndarray = decoder.logits(hidden).numpy()
        return logits


@dataclass(frozen=True)
class Drawn:
    """An utterance that the file itself drew: `case` has its tokens."""

    case: Case
    sampling: SamplingSpec
    seed: int
    min_tokens: int


@dataclass(frozen=True)
class DrawnReport:
    """Shares of the `tokens` drawn that the sampler draws from the graph's logits, and from torch's (None: quantized).

    `failures` words each missed gate.
    """

    cases: tuple[str, ...]
    tokens: int
    graph: float
    torch: float | None
    failures: tuple[str, ...]


def patch_cases(parts: DecoderParts, prompt: PromptSpec, vocabulary: int, seed: int = 0) -> list[Case]:
    """Prefixes of 1, P − 1 and P positions, random text and clips, followed by random codes; else as `random_cases`."""
    assert parts.patch is not None
    group, size, random = parts.cache.groups[0], parts.patch.size, np.random.default_rng(seed)
    codes = np.arange(prompt.code_offset, prompt.code_offset + prompt.code_count)
    words, cases = np.setdiff1d(np.arange(vocabulary), codes), []
    for length in sorted({1, max(1, group.prefix - 1), group.prefix}):
        patches = min(-(-parts.patch.clip // size), length // 2)
        clip = random.choice(codes, max(0, min(parts.patch.clip, patches * size - 1))).tolist()
        text = random.choice(words, length - patches).tolist()
        steps = min(step_counts(parts)[length < group.prefix], (parts.max_position - len(text) - len(clip)) // size)
        tokens = tuple(random.choice(codes, max(1, steps) * size).tolist())
        cases.append(Case(f"prefix {length}", (*text[:-1], *clip, text[-1]), tokens, len(tokens)))
    return cases


def check_patches(
    source: PatchCheckpoint, sides: PatchSides, cases: Sequence[Case], sampling: SamplingSpec, *, trained: bool = True
) -> tuple[ParityReport, DrawnReport]:
    """Compare every logit over `cases` as `check_decoder` does, and every token that the file draws after them."""
    drawn, decoder = draw(sides, cases, sampling), source.load()
    compared = compare([*cases, *(each.case for each in drawn)], sides, decoder)
    judged, free = compared[: len(cases)], compared[len(cases) :]
    exact = sides.parts.weights.formats == {"fp32"}
    if exact:  # what quantized weights draw by odd rules is not the voice's kind of speech
        judged = [*judged, *free[:-1], replace(free[-1], case=replace(free[-1].case, tokens=None))]
    report = _judge_drawn(drawn, sides, [c.graph for c in free], [c.torch for c in free] if exact else [])
    return judge(judged, sides.parts, trained), report


def draw(sides: PatchSides, cases: Sequence[Case], sampling: SamplingSpec) -> list[Drawn]:
    """What the file draws after the prefixes of `cases`: as the voice does, by every rule, and greedily."""
    driver, parts, drawn = sides.open(), sides.parts, []
    patches = min(PATCHES, (parts.max_position - max(len(case.prefix) for case in cases)) // step_tokens(parts))
    # Stops are out of sight for the first half; behind it the utterance may end, in the middle of a patch.
    least = patches * step_tokens(parts) // 2
    kinds = {"its own sampling": sampling, "every rule": EVERY_RULE, "greedy": SamplingSpec(temperature=0)}
    for seed, (name, spec) in enumerate(kinds.items()):
        prefix = cases[seed % len(cases)].prefix
        driver.begin(spec, seed, least)
        tokens = tuple(driver.speak(prefix, patches))
        drawn.append(Drawn(Case(name, prefix, tokens, len(tokens)), spec, seed, least))
    return drawn


def _judge_drawn(
    drawn: Sequence[Drawn], sides: PatchSides, graph: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> DrawnReport:
    """Over the logits of the `graph`, and the `expected` ones of torch where there are any."""
    tokens = sum(len(each.case.tokens or ()) for each in drawn)
    theirs = _same(drawn, expected, sides) / tokens if expected else None
    report = DrawnReport(
        tuple(each.case.name for each in drawn), tokens, _same(drawn, graph, sides) / tokens, theirs, ()
    )
    return replace(report, failures=tuple(_failures(report)))


def _same(drawn: Sequence[Drawn], logits: Sequence[np.ndarray], sides: PatchSides) -> int:
    """How many tokens the sampler draws too, told after each what was drawn."""
    ids, stop = np.array(ids_of(sides.parts.head.ids), np.int64), sides.prompt.stop
    count = 0
    for each, rows in zip(drawn, logits, strict=True):
        sampler = Sampler(each.sampling, ids, stop, each.seed, each.min_tokens)
        for row, token in zip(rows, each.case.tokens or (), strict=True):
            sampler.draw(row.copy())
            count += int(ids[sampler.drawn[-1]]) == token
            sampler.drawn[-1] = int(np.searchsorted(ids, token))
    return count


def _failures(report: DrawnReport) -> Iterator[str]:
    """A line for each missed gate."""
    for name, share in (("its own", report.graph), ("torch's", report.torch)):
        if share is not None and not share >= DRAWN:
            yield f"{share:.1%} of the tokens drawn are the sampler's from {name} logits, at least {DRAWN:.0%} are due"
