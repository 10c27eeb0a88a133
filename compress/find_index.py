"""The layer index that a user asks for: read from a file, or measured, and then kept with its chart and its rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from accelerate import PartialState

from sottovoce.compress.attention_rows import corpus_rows, spoken_rows
from sottovoce.compress.cosine_index import CosineIndex
from sottovoce.compress.distil import beside
from sottovoce.compress.layer_index import Kind, LayerIndex, Measure, Ranking, measure_rounds, read_index, write_index
from sottovoce.compress.layer_report import draw
from sottovoce.errors import OptionError
from sottovoce.models.voice import Voice
from sottovoce.runtime.output import check_output

CHART: Final = ".png"
ROWS: Final = ".jsonl"
"""Suffixes of what lies beside an index."""

UTTERANCES: Final = 40
"""How many are measured on unless told otherwise: as many as there are built-in sentences."""


@dataclass(frozen=True)
class IndexRequest:
    """What to measure and on what; `file` is an index that was measured before, and the rest then means nothing.

    `wer`: the first `utterances` of `sentences` (None: the built-in ones), `speakers` (none: all presets) taking turns,
    before `judge` with `judge_weights`. `cosine`: as many of `corpus`, or of what the voice says without one; `cache`
    and `skip_bad` as in training.
    """

    kind: Kind = "wer"
    ranking: Ranking = "one-shot"
    file: Path | None = None
    utterances: int = UTTERANCES
    sentences: Path | None = None
    speakers: tuple[str, ...] = ()
    judge: str = "pocketsphinx"
    judge_weights: Path | None = None
    corpus: Path | None = None
    cache: Path | None = None
    skip_bad: bool = False


def find_index(voice: Voice, request: IndexRequest, keep: int | None, path: Path, state: PartialState) -> LayerIndex:
    """The index of `voice`; one that is measured is written to `path`, its chart and its rows beside it.

    Every process of `state` calls this, the first one writes; an iterative index is measured until `keep` are left.
    Raises OptionError where what is asked for cannot be had, and OutputError where the disk refuses: rows made by then
    are kept.
    """
    layers = voice.checkpoint.config.layers
    if request.file is not None:
        return read_index(request.file, voice.checkpoint.sha256(), layers)
    check_output(path)
    if request.utterances < 1:
        raise OptionError(f"--utterances {request.utterances}: at least 1 is needed")
    open_measure = _open_wer if request.kind == "wer" else _open_cosine
    measure, count, source = open_measure(voice, request, path.with_suffix(ROWS), state)
    rounds = measure_rounds(measure, layers, keep, request.ranking)
    index = LayerIndex(request.kind, request.ranking, voice.checkpoint.sha256(), layers, source, count, rounds)
    if state.is_main_process:
        save_index(index, keep, path)
    return index


def save_index(index: LayerIndex, keep: int | None, path: Path) -> None:
    """Write `index` to `path` and its chart beside it; OutputError where the disk refuses."""
    write_index(index, path)
    draw(index, keep, path.with_suffix(CHART))


def _open_wer(voice: Voice, request: IndexRequest, rows: Path, state: PartialState) -> tuple[Measure, int, str]:
    """The word error index, how many utterances it is of, and what they are."""
    from sottovoce.compress.evaluate.judges import open_judge
    from sottovoce.compress.evaluate.sentences import read_sentences
    from sottovoce.compress.evaluate.synthesise import open_subject
    from sottovoce.compress.wer_index import WerIndex

    judge = open_judge(request.judge, request.judge_weights)
    texts = read_sentences(request.sentences)[: request.utterances]
    subject = open_subject(voice.folder, request.speakers, threads=1)
    speakers = ", ".join(name for name in list(subject.prompts)[: len(texts)] if name) or "nobody in particular"
    listed = request.sentences.name if request.sentences else "the built-in list"
    source = f"{len(texts)} sentences of {listed}, by {speakers}, to {judge.identity}"
    return WerIndex(subject, texts, judge, rows, state), len(texts), source


def _open_cosine(voice: Voice, request: IndexRequest, rows: Path, state: PartialState) -> tuple[Measure, int, str]:
    """The cosine index, how many utterances it is of, and what they are; every process measures it."""
    if request.corpus is None:
        said, source = spoken_rows(voice, request.utterances), "that the voice said"
    else:
        cache = request.cache or beside(request.corpus, ".tokens")
        said, source = corpus_rows(voice, request.corpus, request.utterances, cache, request.skip_bad), "of the corpus"
    index = CosineIndex(voice.checkpoint.load().eval(), said, voice.complete().window)
    return index, len(said), f"{len(said)} utterances {source}"
