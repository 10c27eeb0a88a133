"""Stage 2: teacher speech from flite, in shards of 400 utterances.

`python -m examples.reference_voice.speech -o work/speech --shards 60` writes `SPEAKERS_00000.npz` …: `audio` int16 at
16 kHz, end to end; `ends` int64, where each utterance stops; `phones` int8, one per 10 ms; `texts` and `speakers`.
Every utterance depends on its seed and number only, and a shard that exists is skipped: the command resumes.
"""

import argparse
import random
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from examples.reference_voice import layout, sentences

RATE = 16000
FRAME = RATE // 100
"""Samples per phone label."""
NUMBER = {phone: i + 1 for i, phone in enumerate(layout.PHONES)}
"""Phones to labels; 0 is a pause."""
SPEAKERS = ("rms", "slt")
"""Speakers that the decoder learns."""
UNSEEN = "awb"
"""Kept out of decoder training, for the zero-shot figure; the codec has heard it."""
SHARD = 400


def flite(text: str, speaker: str) -> np.ndarray:
    """Speech of `text`, float32 at 16 kHz, as flite says it."""
    return flite_phones(text, speaker)[0]


def flite_phones(text: str, speaker: str) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """Speech of `text`, and its phones with the second at which each ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.wav"
        command = ["flite", "-voice", speaker, "-psdur", "-t", text, str(path)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        audio, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise ValueError(f"flite's {speaker} speaks at {rate} Hz, not {RATE}")
    ends = [(phone, float(end)) for phone, end in (item.split(":") for item in out.split())]
    # Diphone voices round durations to pitch periods: the times are stretched to the audio that came out.
    scale = len(audio) / RATE / ends[-1][1]
    return audio, [(phone, end * scale) for phone, end in ends]


def trim(audio: np.ndarray) -> slice:
    """The part of `audio` from 60 ms before its first to 120 ms after its last loud sample."""
    loud = np.flatnonzero(np.abs(audio) > 0.03 * np.abs(audio).max())
    return slice(max(0, loud[0] - RATE * 6 // 100), loud[-1] + RATE * 12 // 100)


def tidy(audio: np.ndarray) -> np.ndarray:
    """`audio` trimmed, at RMS 0.08, and padded to whole 10 ms frames."""
    audio = audio[trim(audio)]
    audio = audio * (0.08 / np.sqrt(np.mean(audio**2)))
    return np.pad(audio * min(1.0, 0.95 / np.abs(audio).max()), (0, -len(audio) % FRAME))


def labels(audio: np.ndarray, ends: list[tuple[str, float]], frames: int) -> np.ndarray:
    """Phone number (0 is a pause) at the middle of each of the `frames` that `tidy` makes of `audio`."""
    start = trim(audio).start
    seconds = (start + FRAME * (np.arange(frames) + 0.5)) / RATE
    which = np.searchsorted([end for _, end in ends], seconds).clip(max=len(ends) - 1)
    return np.array([NUMBER.get(ends[i][0], 0) for i in which], np.int8)


def utterance(seed: int, index: int, speakers: tuple[str, ...]) -> tuple[str, str, np.ndarray, np.ndarray]:
    """Text, speaker, int16 audio and phone labels of one utterance."""
    rng = random.Random(f"{seed}/{index}")
    speaker = rng.choice(speakers)
    text = sentences.training_sentence(rng)
    raw, ends = flite_phones(text, speaker)
    audio = tidy(raw)
    phones = labels(raw, ends, len(audio) // FRAME)
    return text, speaker, np.round(audio * 32767).astype(np.int16), phones


def write_shard(path: Path, seed: int, first: int, speakers: tuple[str, ...], workers: int) -> None:
    """One shard, whole or not at all."""
    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(lambda i: utterance(seed, i, speakers), range(first, first + SHARD)))
    texts, names, audio, phones = zip(*rows, strict=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        audio=np.concatenate(audio),
        phones=np.concatenate(phones),
        ends=np.cumsum([len(a) for a in audio]),
        texts=np.array(texts),
        speakers=np.array(names),
    )
    part.replace(path)


def main() -> None:
    """Write the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--speakers", nargs="+", default=list(SPEAKERS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for shard in range(args.shards):
        path = args.output / f"{'-'.join(args.speakers)}_{shard:05d}.npz"
        if not path.exists():
            write_shard(path, args.seed, shard * SHARD, tuple(args.speakers), args.workers)
            print(path.name, flush=True)


if __name__ == "__main__":
    main()
