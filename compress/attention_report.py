"""`compress window --report`: which window a voice can afford, and what memory each would leave."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sottovoce.compress.attention_mass import Mass, Row, attention_mass
from sottovoce.compress.attention_rows import corpus_rows, spoken_rows
from sottovoce.compress.distil import beside
from sottovoce.compress.options import refuse
from sottovoce.compress.voice_folder import check_tokens
from sottovoce.errors import OptionError
from sottovoce.models.checkpoint import write_atomic
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import CacheGroup
from sottovoce.runtime.output import check_output

UTTERANCES = 5
"""How many are looked at unless told otherwise; as many as the paper's table 2 has."""

SECONDS = (0.32, 0.64, 1.28, 2.56, 5.12)
"""Windows that are told of, as time; 1.28 s is the paper's for all of its models."""


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


def run_report(args: argparse.Namespace) -> int:
    """`compress window --report`: print the table, write it as JSON to `args.output` where that is given; 0.

    Looks at `args.utterances` of the corpus `args.distill`, else at what the voice says; `args.window` is one more row.
    """
    refuse(args, ["teacher", "recipe", "steps", "resume", "share"], "training, not with --report")
    if args.distill is None:
        refuse(args, ["cache", "skip_bad"], "--distill CORPUS")
    if args.window is not None and args.window < 2:
        raise OptionError(f"--window {args.window}: at least 2, the current token and one before it")
    count = UTTERANCES if args.utterances is None else args.utterances
    if count < 1:
        raise OptionError(f"--utterances {count}: at least 1 is needed")
    if args.output is not None:
        check_output(args.output)
    voice = Voice.open(args.voice)
    check_tokens(voice, "window")
    if args.distill is None:
        report = report_attention(voice, spoken_rows(voice, count), "that the voice said", args.window)
    else:
        cache = args.cache or beside(args.distill, ".tokens")
        rows = corpus_rows(voice, args.distill, count, cache, args.skip_bad)
        report = report_attention(voice, rows, f"of {args.distill}", args.window)
    show_report(report)
    if args.output is not None:
        write_report(report, args.output)
    return 0


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
