"""Stage 6: word error rates by pocketsphinx, resumable.

    python -m examples.reference_voice.judge raw -o work/judge/raw.jsonl
    python -m examples.reference_voice.judge codec --codec work/codec -o work/judge/codec.jsonl
    python -m examples.reference_voice.judge bundle --bundle work/bundles/fp32 --seeds 1 2 3 -o work/judge/fp32.jsonl
    python -m examples.reference_voice.judge report work/judge/raw.jsonl work/judge/codec.jsonl --gate codec=2

`--set general` takes the open-vocabulary sentences instead of the held-out announcements. A row per utterance; rows
that exist are kept.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from examples.reference_voice import sentences, speech
from examples.reference_voice.pack import CLIP
from sottovoce.runtime.text.normalise import normalise

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
            "stopped": [s.stopped for s in stats.sentences],
            "codes": [len(s.codes) for s in stats.sentences],
        }

    return synthesise


def clip(speaker: str, args: argparse.Namespace) -> Path:
    """A WAV file of two seconds of `speaker`, beside the results."""
    path: Path = args.output.parent / f"{speaker}.wav"
    soundfile.write(path, speech.tidy(speech.flite(CLIP, speaker))[-2 * speech.RATE :], speech.RATE)
    return path


class Judge:
    """pocketsphinx with its own US-English model."""

    def __init__(self) -> None:
        """Load the recogniser."""
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=speech.RATE, loglevel="FATAL")

    def hear(self, audio: np.ndarray) -> str:
        """Words heard in `audio`, 0.2 s of silence put on both sides."""
        padded = np.pad(audio, speech.RATE // 5)
        data = np.clip(np.round(padded * 32767), -32768, 32767).astype(np.int16).tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(data, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return spoken(hypothesis.hypstr.replace(".", "").split()) if hypothesis else ""


def spoken(words: list[str]) -> str:
    """Words as they are compared: marks dropped, spelled "ay" written like the letter."""
    return " ".join("a" if w == "ay" else w for w in words if w not in ",.?")


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """(text, speaker, seed) in the order of judging."""
    texts = sentences.general() if args.set == "general" else sentences.test_sentences(args.count)
    for seed in args.seeds:
        for text in texts:
            for speaker in args.speakers:
                yield text, speaker, seed


def run(args: argparse.Namespace) -> int:
    """Judge what is not judged yet; returns 0."""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["text"], r["speaker"], r["seed"]) for r in rows(args.output)} if args.output.exists() else set()
    synthesise = {"raw": raw, "codec": codec, "bundle": bundle}[args.system](args)
    judge = Judge()
    with args.output.open("a", encoding="utf-8") as file:
        for text, speaker, seed in jobs(args):
            if (text, speaker, seed) in done:
                continue
            audio, notes = synthesise(text, speaker, seed)
            row = {"text": text, "speaker": speaker, "seed": seed, "seconds": round(len(audio) / speech.RATE, 2)}
            row |= {"said": spoken(normalise(text)), "heard": judge.hear(audio), **notes}
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a results file; a last line cut short by a kill is left out."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def errors(row: dict[str, Any]) -> tuple[int, int]:
    """Word errors and words of one row."""
    import jiwer

    if not row["heard"]:
        return len(row["said"].split()), len(row["said"].split())
    out = jiwer.process_words(row["said"], row["heard"])
    return out.substitutions + out.deletions + out.insertions, len(row["said"].split())


def by_sentence(results: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Errors and words `[2]` summed per sentence: utterances of one sentence are not independent."""
    out: dict[str, np.ndarray] = {}
    for row in results:
        out[row["text"]] = out.get(row["text"], np.zeros(2)) + errors(row)
    return out


def interval(samples: np.ndarray) -> str:
    """2.5 and 97.5 percentiles, in points."""
    low, high = np.percentile(samples, [2.5, 97.5]) * 100
    return f"[{low:.1f}, {high:.1f}]"


def bootstrap(tables: list[np.ndarray], draws: int = 4000) -> list[np.ndarray]:
    """WERs `[draws]` of each table `[sentences, 2]` under the same resampling of sentences."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(tables[0]), size=(draws, len(tables[0])))
    return [t[picks].sum(1)[:, 0] / t[picks].sum(1)[:, 1] for t in tables]


def wer(summed: dict[str, np.ndarray]) -> float:
    """Word error rate in percent of per-sentence sums."""
    wrong, words = np.sum(list(summed.values()), axis=0)
    return float(100 * wrong / words)


def report(args: argparse.Namespace) -> int:
    """WER of every file with its interval, per speaker, and the paired difference to the first file's same speakers.

    Returns 1 where a gate is missed: the difference is over NAME's points, or its upper end over them by more than one.
    """
    tables = {p.stem: rows(p) for p in args.files}
    gates = {name: float(points) for name, points in (g.split("=") for g in args.gate)}
    first, missed = next(iter(tables.values())), 0
    print("| system | utterances | WER % | 95 % | to first, points | gate | runaway or cut % | per speaker |")
    print("|" + "---|" * 8)
    for name, results in tables.items():
        people = sorted({r["speaker"] for r in results})
        summed, reference = by_sentence(results), by_sentence([r for r in first if r["speaker"] in people])
        shared = sorted(set(reference) & set(summed))
        mine, base = bootstrap([np.array([t[k] for k in shared]) for t in (summed, reference)])
        each = ", ".join(f"{s} {wer(by_sentence([r for r in results if r['speaker'] == s])):.1f}" for s in people)
        delta, upper = wer(summed) - wer(reference), 100 * np.percentile(mine - base, 97.5)
        met = name not in gates or (delta <= gates[name] and upper <= gates[name] + 1)
        missed += not met
        gate = f"{'ok' if met else 'MISS'} +{gates[name]:g}" if name in gates else ""
        cells = [
            name,
            len(results),
            f"{wer(summed):.2f}",
            interval(mine),
            f"{delta:+.2f} {interval(mine - base)}",
            gate,
        ]
        print("| " + " | ".join(map(str, [*cells, runaways(results, tables), each])) + " |")
    return min(missed, 1)


def runaways(results: list[dict[str, Any]], tables: dict[str, list[dict[str, Any]]]) -> str:
    """Share of utterances that hit the length limit, or last under 0.5 or over 2 times the teacher's rendering."""
    lengths = {(r["text"], r["speaker"]): r["seconds"] for r in tables.get("raw", []) + tables.get("general_raw", [])}
    judged = [(r, lengths[r["text"], r["speaker"]]) for r in results if (r["text"], r["speaker"]) in lengths]
    if not judged:
        return "–"
    bad = [
        any(s != "stop token" for s in r.get("stopped", [])) or not 0.5 < r["seconds"] / teacher < 2
        for r, teacher in judged
    ]
    return f"{100 * np.mean(bad):.2f} of {len(judged)}"


def main() -> int:
    """Parse arguments; judge or report. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="system", required=True)
    for name in ("raw", "codec", "bundle"):
        command = commands.add_parser(name)
        command.add_argument("-o", "--output", type=Path, required=True)
        command.add_argument("--set", choices=["held-out", "general"], default="held-out")
        command.add_argument("--count", type=int, default=120, help="held-out sentences")
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
