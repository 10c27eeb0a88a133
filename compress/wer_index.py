"""SPADE's index of a layer (arXiv 2509.20802): the word error rate of what the voice says while the layer is skipped.

Pairs of a sentence and a speaker's clip with its words, the same for every layer, spoken by the runtime's own loop and
judged as `sottovoce evaluate` does. Rows are kept as they come, so that any number of processes share the work and a
killed run goes on.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from accelerate import PartialState

from sottovoce.compress.evaluate.evaluator import Evaluator, Job
from sottovoce.compress.evaluate.judges import Judge
from sottovoce.compress.evaluate.rows import Row
from sottovoce.compress.evaluate.run import run_rows
from sottovoce.compress.evaluate.synthesise import Subject
from sottovoce.compress.evaluate.torch_bundle import DecoderSession
from sottovoce.compress.evaluate.wer import figure
from sottovoce.compress.layer_index import Round, Score
from sottovoce.compress.layers import keep_layers

SEED = 1
"""Of every utterance: layers differ, chance does not."""


class WerIndex:
    """Measures the layers of the voice `subject` over `texts`, its speakers taking turns; rows are kept in `rows`."""

    def __init__(self, subject: Subject, texts: Sequence[str], judge: Judge, rows: Path, state: PartialState) -> None:
        """`state` knows the processes that share the work."""
        self.subject, self.judge, self.rows, self.state = subject, judge, rows, state
        speakers = list(subject.prompts)
        self.jobs = [Job(text, speakers[i % len(speakers)], SEED) for i, text in enumerate(texts)]

    def __call__(self, dropped: tuple[int, ...], left: tuple[int, ...]) -> Round:
        """The scores of the layers `left`, the others being gone. Raises TextError, or OutputError of a full disk."""
        systems = [dropped, *((*dropped, layer) for layer in left)]
        opened = lru_cache(maxsize=1)(lambda number: self._evaluator(systems[number]))
        count = len(self.jobs)
        keys = [opened(number).key(job) for number in range(len(systems)) for job in self.jobs]
        made = run_rows(keys, lambda i: opened(i // count).row(self.jobs[i % count]), self.rows, self.state)
        rates = [self._score(made[start : start + count]) for start in range(0, len(made), count)]
        scores = (replace(score, layer=layer) for layer, score in zip(left, rates[1:], strict=True))
        return Round(dropped, tuple(scores), rates[0].value)

    def _evaluator(self, skipped: tuple[int, ...]) -> Evaluator:
        """What makes rows of the voice without the layers `skipped`."""
        return Evaluator(skip_layers(self.subject, skipped), self.judge, None, None)

    def _score(self, rows: Sequence[Row]) -> Score:
        """The word error rate of `rows`, of no layer yet."""
        found = figure(rows)
        assert found is not None
        return Score(-1, found.value, found.low, found.high)


def skip_layers(subject: Subject, skipped: Sequence[int]) -> Subject:
    """`subject`, a voice that torch runs, without the layers `skipped`; its weights are shared."""
    if not skipped:
        return subject
    session = subject.bundle.decoder
    assert isinstance(session, DecoderSession)
    decoder = session.decoder
    decoder = keep_layers(decoder, [i for i in range(decoder.config.layers) if i not in skipped])
    manifest = subject.bundle.manifest
    (group,) = manifest.cache.groups
    group = replace(group, layers=decoder.config.layers)
    manifest = replace(manifest, cache=replace(manifest.cache, groups=(group,), bytes=group.nbytes))
    bundle = replace(subject.bundle, manifest=manifest, decoder=DecoderSession(decoder, session.ids))
    return replace(subject, bundle=bundle, identity=f"{subject.identity} without {sorted(skipped)}")
