"""Stage 2: teacher speech from flite, in shards of 400 utterances.

`python -m examples.reference_voice.speech -o work/speech --shards 90` writes `SPEAKERS_00000.npz` …: `audio` int16 at
16 kHz, end to end; `ends` int64, where each utterance stops; `texts`, `speakers`, `speeds`. Every utterance depends on
its seed and number only, and a shard that exists is skipped: the command resumes. A fifth of the training utterances
are resampled to another speed, pitch and timbre, and count as further speakers.
"""

import argparse
import random
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.reference_voice import sentences

RATE = 16000
SPEAKERS = ("rms", "slt", "kal16")
"""Speakers that the decoder learns."""
UNSEEN = "awb"
"""Kept out of decoder training, for the zero-shot figure; the codec has heard it."""
SPEEDS = (0.88, 0.94, 1.07, 1.14)
SHARD = 400


def flite(text: str, speaker: str) -> np.ndarray:
    """Speech of `text`, float32 at 16 kHz, as flite says it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.wav"
        subprocess.run(["flite", "-voice", speaker, "-t", text, path], check=True, capture_output=True)
        audio, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise ValueError(f"flite's {speaker} speaks at {rate} Hz, not {RATE}")
    return audio


def tidy(audio: np.ndarray, speed: float = 1.0) -> np.ndarray:
    """`audio` with 60 ms of silence before, 120 ms after, RMS 0.08 and, where `speed` is not 1, resampled."""
    if speed != 1.0:
        audio = soxr.resample(audio, RATE * speed, RATE)
    loud = np.flatnonzero(np.abs(audio) > 0.03 * np.abs(audio).max())
    audio = audio[max(0, loud[0] - RATE * 6 // 100) : loud[-1] + RATE * 12 // 100]
    audio = audio * (0.08 / np.sqrt(np.mean(audio**2)))
    return audio * min(1.0, 0.95 / np.abs(audio).max())


def utterance(seed: int, index: int, speakers: tuple[str, ...]) -> tuple[str, str, float, np.ndarray]:
    """Text, speaker, speed and int16 audio of one utterance."""
    rng = random.Random(f"{seed}/{index}")
    speaker = rng.choice(speakers)
    speed = rng.choice(SPEEDS) if rng.random() < 0.2 else 1.0
    text = sentences.training_sentence(rng)
    audio = tidy(flite(text, speaker), speed)
    return text, speaker, speed, np.round(audio * 32767).astype(np.int16)


def write_shard(path: Path, seed: int, first: int, speakers: tuple[str, ...], workers: int) -> None:
    """One shard, whole or not at all."""
    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(lambda i: utterance(seed, i, speakers), range(first, first + SHARD)))
    texts, names, speeds, audio = zip(*rows, strict=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        audio=np.concatenate(audio),
        ends=np.cumsum([len(a) for a in audio]),
        texts=np.array(texts),
        speakers=np.array(names),
        speeds=np.array(speeds, np.float32),
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
