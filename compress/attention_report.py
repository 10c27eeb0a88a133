"""`compress window --report`: which window a voice can afford, and what memory each would leave."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sottovoce.compress.attention_mass import Mass, Row, attention_mass
from sottovoce.compress.corpus.batches import Batches
from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.corpus.tokens import Tokeniser
from sottovoce.compress.evaluate.sentences import SENTENCES
from sottovoce.compress.evaluate.torch_bundle import open_voice
from sottovoce.compress.recipe import BatchRecipe
from sottovoce.errors import OptionError
from sottovoce.models.checkpoint import write_atomic
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import CacheGroup
from sottovoce.runtime.prompt import find_prompt, preset_names
from sottovoce.runtime.speak import speak

UTTERANCES = 5
"""How many are looked at unless told otherwise; as many as the paper's table 2 has."""

CONSIDERED = 50
"""Utterances of a corpus that are read to find the longest ones among them: reading all of it may take hours."""

SECONDS = (0.32, 0.64, 1.28, 2.56, 5.12)
"""Windows that are told of, as time; 1.28 s is the paper's for all of its models."""

_MEND = "name a corpus with --distill"


@dataclass(frozen=True)
class WindowRow:
    """What window W = `window` keeps: shares of attention, and bytes of an fp32 cache with the voice's prefix."""

    window: int
    seconds: float
    local: float
    coverage: float
    cache_bytes: int


@dataclass(frozen=True)
class AttentionReport:
    """The paper's table 2 for one voice: shares of attention on the prefix and on generated tokens, and the windows.

    `source` says what was looked at; the last window never wraps.
    """

    voice: str
    source: str
    utterances: int
    tokens: int
    prompt: float
    generated: float
    windows: tuple[WindowRow, ...]


def report_attention(voice: Voice, rows: Sequence[Row], source: str, asked: int | None = None) -> AttentionReport:
    """Look at `rows` with the torch weights of `voice`, under its window if it has one; `asked` is one more W."""
    spec, codec = voice.complete(), Codec.load(voice.codec_folder).config
    mass = attention_mass(voice.checkpoint.load().eval(), rows, spec.window)
    rate = codec.sample_rate / codec.hop
    full = spec.max_new_tokens + 1
    windows = {round(rate * seconds) for seconds in SECONDS} | ({asked} if asked else set())
    chosen = [*sorted(w for w in windows if 2 <= w < full), full]
    told = tuple(_window_row(voice, mass, window, window / rate) for window in chosen)
    generated = float(mass.generated.sum())
    return AttentionReport(str(voice.folder), source, len(rows), mass.tokens, mass.prompt, generated, told)


def corpus_rows(voice: Voice, corpus: Path, count: int, cache: Path, skip_bad: bool) -> list[Row]:
    """The `count` longest of the first CONSIDERED utterances of a corpus, laid out as in training.

    Raises CorpusError where files cannot be used (and `skip_bad` is not given) or nothing is left.
    """
    spec, found = voice.complete(), read_corpus(corpus)
    first = replace(found, utterances=found.utterances[:CONSIDERED])
    spoken = Tokeniser(voice, cache).load(first, skip_bad).spoken
    any_row = BatchRecipe(tokens=spec.prefix + spec.max_new_tokens + 1, seed=0)
    batches = Batches(spoken, spec, any_row, voice.checkpoint.config.max_position)
    longest = sorted(batches.usable.tolist(), key=lambda i: (-len(spoken[i].codes), i))[:count]
    made = [batches.collate([index], 0) for index in longest]
    return [Row(tuple(batch.ids[0].tolist()), int(batch.prefix[0])) for batch in made]


def spoken_rows(voice: Voice, count: int) -> list[Row]:
    """What the voice itself says for the `count` longest of the built-in sentences, its presets taking turns.

    Raises OptionError where it has no presets, or says nothing.
    """
    bundle = open_voice(voice, Codec.load(voice.codec_folder))
    names, offset, rows = preset_names(bundle) or [None], bundle.voice.prompt.code_offset, []
    if names == [None] and "{prompt_codes}" in bundle.voice.prompt.layout:
        raise OptionError(f"{voice.folder} has no preset speaker to say something: {_MEND}")
    for number, text in enumerate(sorted(SENTENCES, key=len, reverse=True)[:count]):
        speech = speak(bundle, text, find_prompt(bundle, names[number % len(names)]), seed=number)
        speech.whole()
        for job, said in zip(speech.jobs, speech.stats().sentences, strict=True):
            rows.append(Row((*job.prefix, *(offset + code for code in said.codes)), len(job.prefix)))
    rows = [row for row in rows if len(row.ids) > row.prefix]
    if not rows:
        raise OptionError(f"{voice.folder} says nothing, there is no attention to look at: {_MEND}")
    return rows


def write_report(report: AttentionReport, path: Path) -> None:
    """`report` as JSON; OutputError where the disk refuses."""
    text = json.dumps(asdict(report), indent=1) + "\n"
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def show_report(report: AttentionReport) -> None:
    """Print `report` as a table."""
    console = Console(file=sys.stdout)
    said = f"{report.utterances} utterances {report.source}, {report.tokens} generated tokens"
    shares = f"attention: {report.prompt:.1%} on the prompt, {report.generated:.1%} on generated tokens"
    console.print(f"{said}\n{shares}", highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2))
    for name in ("window W", "seconds", "local / generated", "coverage", "cache, fp32"):
        table.add_column(name, justify="right")
    for row in report.windows:
        size = f"{row.cache_bytes / 1e6:.2f} MB"
        table.add_row(str(row.window), f"{row.seconds:.2f}", f"{row.local:.1%}", f"{row.coverage:.1%}", size)
    console.print(table)


def _window_row(voice: Voice, mass: Mass, window: int, seconds: float) -> WindowRow:
    """One line of the table."""
    config, prefix = voice.checkpoint.config, voice.complete().prefix
    sizes = (config.layers, config.kv_heads, config.head_dim, prefix, window)
    group = CacheGroup("backbone", *sizes, unit="token", dtype="fp32")
    return WindowRow(window, seconds, mass.local(window), mass.coverage(window), group.nbytes)
