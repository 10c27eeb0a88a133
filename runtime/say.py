"""`sottovoce say`: text → a WAV file, or WAV or raw PCM on stdout."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sottovoce.errors import OptionError, TextError
from sottovoce.runtime.bundle import Bundle, load_bundle
from sottovoce.runtime.decode import PREFILL_CHUNK
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.output import check_output, pcm16, wav, write_wav, written_whole
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.session import Floats
from sottovoce.runtime.speak import SentenceStats, Speech, Stats, speak

OVERRIDES = ("temperature", "top_k", "top_p", "repetition_penalty", "repetition_window")
"""Sampling defaults that an option of the same name replaces."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `say`."""
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("text", nargs="?", help="what to say; - reads it from stdin")
    parser.add_argument("--file", type=Path, help="read the text from a file instead (UTF-8)")
    parser.add_argument("-o", "--output", default="out.wav", help="WAV file, or - for stdout (default: %(default)s)")
    parser.add_argument("--stream", action="store_true", help="with -o -: raw 16-bit mono PCM, as soon as it is made")
    parser.add_argument(
        "--prompt", help="speaker: a prompt kept in the bundle, or an audio file (default: the voice's own choice)"
    )
    parser.add_argument("--prompt-text", help="the words the prompt says, for voices that use them")
    parser.add_argument("--seed", type=int, default=0, help="sentence n draws from seed + n (default: %(default)s)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token each time")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens; 0: from all")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that make up this probability")
    parser.add_argument("--repetition-penalty", type=float, help="above 1: makes recent tokens less likely; 1: off")
    parser.add_argument("--repetition-window", type=int, help="how many of the last tokens the penalty looks at")
    parser.add_argument(
        "--prefill-chunk",
        type=int,
        default=PREFILL_CHUNK,
        help="prefix tokens read at once (default: %(default)s; a portable bundle reads all of them at once)",
    )
    parser.add_argument("--threads", type=int, help="threads per graph (default: usable processors, at most 4)")
    parser.add_argument(
        "--json", action="store_true", help="print what was read and how long it took (stderr with -o -)"
    )


def run(args: argparse.Namespace) -> int:
    """Speak and return exit status 0."""
    if args.stream and args.output != "-":
        raise OptionError("--stream writes raw PCM to stdout: add -o -")
    if args.output != "-":
        check_output(Path(args.output))
    text = read_text(args)
    bundle = load_bundle(args.bundle, threads=args.threads)
    speech = speak(
        bundle,
        text,
        find_prompt(bundle, args.prompt, args.prompt_text),
        seed=args.seed,
        sampling=_sampling(bundle.voice.sampling, args),
        prefill_chunk=args.prefill_chunk,
    )
    _write(speech, args.output, args.stream)
    _tell(bundle, speech.stats(), args)
    return 0


def read_text(args: argparse.Namespace) -> str:
    """The text of the argument, stdin or file; raises TextError or OptionError."""
    if (args.text is None) == (args.file is None):
        raise OptionError("give the text, or - to read it from stdin, or --file FILE (one of them)")
    try:
        if args.file is not None:
            text = str(args.file.read_text(encoding="utf-8"))
        else:
            text = sys.stdin.read() if args.text == "-" else str(args.text)
    except FileNotFoundError:
        raise TextError(f"{args.file}: no such file") from None
    except UnicodeDecodeError as error:
        raise TextError(f"{args.file or 'stdin'} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise TextError("nothing to say: the text is empty")
    return text


def _sampling(spec: SamplingSpec, args: argparse.Namespace) -> SamplingSpec:
    """The voice's defaults with the options given."""
    given = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    return replace(spec, **given)


def _write(speech: Speech, output: str, stream: bool) -> None:
    """Speak to a file, whole or not at all, or to stdout."""
    if stream:
        _write_raw(speech, sys.stdout.buffer)
    elif output == "-":
        sys.stdout.buffer.write(wav(speech.whole(), speech.sample_rate))
        sys.stdout.buffer.flush()
    else:
        with written_whole(Path(output)) as file:
            write_wav(file, speech, speech.sample_rate)


def _write_raw(chunks: Iterable[Floats], file: BinaryIO) -> None:
    """Each chunk as PCM, flushed, so that a player starts with the first one."""
    for chunk in chunks:
        file.write(pcm16(chunk))
        file.flush()


def _tell(bundle: Bundle, stats: Stats, args: argparse.Namespace) -> None:
    """Say what was made: one line or JSON, never among the audio; warn of what makes it doubtful."""
    out = sys.stderr if args.output == "-" else sys.stdout
    if bundle.manifest.parity == "failed":
        print("sottovoce: warning: this bundle failed its parity gates when it was exported", file=sys.stderr)
    for sentence in stats.sentences:
        if not sentence.codes:
            print(f"sottovoce: warning: the voice said nothing for {sentence.read!r}: try --seed", file=sys.stderr)
        if sentence.stopped != "stop token":
            print(f"sottovoce: warning: cut at {sentence.stopped}: {sentence.read!r}", file=sys.stderr)
    if args.json:
        print(json.dumps(summary(bundle, stats, args.output), indent=1, ensure_ascii=False), file=out)
    else:
        print(f"{args.output}: {_figures(bundle.voice.codec.sample_rate, stats)}", file=out)


def _figures(sample_rate: int, stats: Stats) -> str:
    """`stats` in a line."""
    said = f"{stats.audio_seconds:.2f} s of speech at {sample_rate} Hz"
    if stats.rtf is None or stats.ttfa_seconds is None:
        return said
    return f"{said}, RTF {stats.rtf:.3f}, first sound after {stats.ttfa_seconds * 1e3:.0f} ms"


def summary(bundle: Bundle, stats: Stats, output: str) -> dict[str, Any]:
    """`stats` as JSON values: seconds unless the key says ms."""
    steps = [s for sentence in stats.sentences for s in sentence.step_seconds]
    p50, p95 = (np.percentile(steps, [50, 95]) * 1e3).tolist() if steps else (None, None)
    return {
        "output": output,
        "sample_rate": bundle.voice.codec.sample_rate,
        "audio_s": stats.audio_seconds,
        "busy_s": stats.busy_seconds,
        "rtf": stats.rtf,
        "ttfa_ms": None if stats.ttfa_seconds is None else stats.ttfa_seconds * 1e3,
        "step_ms": {"p50": p50, "p95": p95},
        "load_s": dict(bundle.load_seconds),
        "threads": bundle.threads,
        "cache_bytes": stats.cache_bytes,
        "sentences": [_sentence(s) for s in stats.sentences],
    }


def _sentence(stats: SentenceStats) -> dict[str, Any]:
    """One sentence as JSON values."""
    return {
        "read": stats.read,
        "seed": stats.seed,
        "text_tokens": stats.text_tokens,
        "prefix_tokens": stats.prefix_tokens,
        "tokens": len(stats.codes),
        "runs": 1 + len(stats.step_seconds),
        "stopped": stats.stopped,
        "prefill_ms": stats.prefill_seconds * 1e3,
    }
