"""Stage 8: word error rates by pocketsphinx, resumable.

    python -m examples.reference_voice.judge raw -o work/judge/raw.jsonl
    python -m examples.reference_voice.judge codec --codec work/codec -o work/judge/codec.jsonl
    python -m examples.reference_voice.judge bundle --bundle work/bundles/fp32 --seeds 1 2 3 -o work/judge/fp32.jsonl
    python -m examples.reference_voice.judge report work/judge/raw.jsonl work/judge/codec.jsonl --gate codec=2

`--set general` takes the open-vocabulary sentences instead of the held-out announcements, `--set long` four of these
in one go. A row per utterance; rows that exist are kept.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from examples.reference_voice import sentences, speech
from examples.reference_voice.pack import CLIP
from sottovoce.compress.evaluate.judges import Pocketsphinx, words_of
from sottovoce.compress.evaluate.rows import Row, read_rows, runaway, write_rows
from sottovoce.compress.evaluate.wer import Figure, difference, figure, meets

Synthesise = Callable[[str, str, int], tuple[np.ndarray, dict[str, Any]]]
"""(text, speaker, seed) → float32 audio at 16 kHz and what is worth noting."""


def raw(args: argparse.Namespace) -> Synthesise:
    """The teacher itself."""
    return lambda text, speaker, seed: (speech.tidy(speech.flite(text, speaker)), {})


def codec(args: argparse.Namespace) -> Synthesise:
    """The teacher through the codec."""
    import torch

    from examples.reference_voice.tokenise import encode
    from sottovoce.models.codec import Codec

    torch.set_num_threads(1)
    model = Codec.load(args.codec)

    def synthesise(text: str, speaker: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        audio = speech.tidy(speech.flite(text, speaker))
        codes = torch.from_numpy(encode(model, np.round(audio * 32767).astype(np.int16)).astype(np.int64))
        with torch.inference_mode():
            return model.resynthesise(codes[None])[0].numpy(), {}

    return synthesise


def bundle(args: argparse.Namespace) -> Synthesise:
    """An exported voice; speakers are its prompts, or flite voices of which it is given a clip."""
    from sottovoce.runtime.bundle import load_bundle
    from sottovoce.runtime.prompt import find_prompt, preset_names
    from sottovoce.runtime.speak import speak

    voice = load_bundle(args.bundle, threads=1)
    prompts = {s: find_prompt(voice, s if s in preset_names(voice) else str(clip(s, args))) for s in args.speakers}

    def synthesise(text: str, speaker: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        talk = speak(voice, text, prompts[speaker], seed=seed)
        audio = talk.whole()
        stats = talk.stats()
        return audio, {
            "stopped": tuple(s.stopped for s in stats.sentences),
            "codes": tuple(len(s.codes) for s in stats.sentences),
        }

    return synthesise


def clip(speaker: str, args: argparse.Namespace) -> Path:
    """A WAV file of two seconds of `speaker`, beside the results."""
    path: Path = args.output.parent / f"{speaker}.wav"
    soundfile.write(path, speech.tidy(speech.flite(CLIP, speaker))[-2 * speech.RATE :], speech.RATE)
    return path


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """(text, speaker, seed) in the order of judging."""
    texts = {
        "held-out": lambda: sentences.test_sentences(args.count),
        "general": sentences.general,
        "long": lambda: sentences.long_texts(args.count),
    }[args.set]()
    for seed in args.seeds:
        for text in texts:
            for speaker in args.speakers:
                yield text, speaker, seed


def run(args: argparse.Namespace) -> int:
    """Judge what is not judged yet; returns 0."""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    kept = read_rows(args.output) if args.output.exists() else []
    write_rows(kept, args.output)  # without a last line that a kill cut short
    done = {row.job for row in kept}
    synthesise = {"raw": raw, "codec": codec, "bundle": bundle}[args.system](args)
    judge = Pocketsphinx()
    with args.output.open("a", encoding="utf-8") as file:
        for text, speaker, seed in jobs(args):
            if (text, speaker, seed) in done:
                continue
            audio, notes = synthesise(text, speaker, seed)
            seconds = round(len(audio) / speech.RATE, 2)
            row = Row(text, speaker, seed, seconds, words_of(text), judge.hear(audio), **notes)
            file.write(row.to_json())
            file.flush()
    return 0


def points(found: Figure, sign: str = "") -> str:
    """A rate or a difference of rates in points, with its interval."""
    return f"{100 * found.value:{sign}.2f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def report(args: argparse.Namespace) -> int:
    """WER of every file with its interval, per speaker, and the paired difference to the first file's same speakers.

    Returns 1 where a gate is missed: the difference is over NAME's points, or its upper end over them by more than one.
    """
    tables = {p.stem: read_rows(p) for p in args.files}
    gates = {name: float(allowed) for name, allowed in (g.split("=") for g in args.gate)}
    first, missed = next(iter(tables.values())), 0
    print("| system | utterances | WER %, 95 % | to first, points | gate | runaway or cut % | per speaker |")
    print("|" + "---|" * 7)
    for name, results in tables.items():
        people = sorted({row.speaker for row in results})
        mine, delta = figure(results), difference(results, [row for row in first if row.speaker in people])
        if mine is None or delta is None:
            raise SystemExit(f"{name} and {args.files[0].stem} have no sentence and speaker in common")
        each = ((s, figure([row for row in results if row.speaker == s])) for s in people)
        speakers = ", ".join(f"{s} {100 * found.value:.1f}" for s, found in each if found)
        met = name not in gates or meets(delta, gates[name])
        missed += not met
        gate = f"{'ok' if met else 'MISS'} +{gates[name]:g}" if name in gates else ""
        cells = [name, len(results), points(mine), points(delta, "+"), gate, runaways(results, tables), speakers]
        print("| " + " | ".join(map(str, cells)) + " |")
    return min(missed, 1)


def runaways(results: list[Row], tables: dict[str, list[Row]]) -> str:
    """Share of the utterances that the teacher said too which ran away or were cut."""
    teacher = [*tables.get("raw", []), *tables.get("general_raw", [])]
    lengths = {(row.text, row.speaker): row.seconds for row in teacher}
    judged = [(row, lengths[row.text, row.speaker]) for row in results if (row.text, row.speaker) in lengths]
    if not judged:
        return "–"
    return f"{100 * np.mean([runaway(*pair) for pair in judged]):.2f} of {len(judged)}"


def main() -> int:
    """Parse arguments; judge or report. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="system", required=True)
    for name in ("raw", "codec", "bundle"):
        command = commands.add_parser(name)
        command.add_argument("-o", "--output", type=Path, required=True)
        command.add_argument("--set", choices=["held-out", "general", "long"], default="held-out")
        command.add_argument("--count", type=int, default=120, help="texts of a set that is drawn")
        command.add_argument("--speakers", nargs="+", default=list(speech.SPEAKERS))
        command.add_argument("--seeds", nargs="+", type=int, default=[1])
        command.set_defaults(work=run)
        if name != "raw":
            command.add_argument(f"--{name}", type=Path, required=True)
    command = commands.add_parser("report")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument(
        "--gate", nargs="*", default=[], metavar="NAME=POINTS", help="allowed WER above the first file"
    )
    command.set_defaults(work=report)
    args = parser.parse_args()
    return int(args.work(args))


if __name__ == "__main__":
    sys.exit(main())
