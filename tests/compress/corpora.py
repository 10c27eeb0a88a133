"""Small corpora, built where a test wants them: tones as recordings, random codes, a few words each; and how toys learn
from them."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.tiny import CODEC, CODES

RATE = CODEC.sample_rate
WORDS = "a bird can do every fine good hat in just king low".split()


def words(number: int, count: int = 4) -> str:
    """The text of utterance `number`."""
    return " ".join(WORDS[(number + i) % len(WORDS)] for i in range(count)) + "."


def tone(path: Path, seconds: float = 0.3, pitch: float = 220.0, rate: int = RATE, level: float = 0.3) -> Path:
    """Write a sine of `pitch` Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = level * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, audio.astype(np.float32), rate)
    return path


def manifest(folder: Path, *lines: dict[str, Any]) -> Path:
    """Write `manifest.jsonl`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def coded_corpus(folder: Path, count: int, shortest: int = 12, longest: int = 40) -> Path:
    """`count` utterances of random codes, by two speakers in turn."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        name = f"{i:03d}.npy"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, rng.integers(0, CODES, int(rng.integers(shortest, longest + 1))))
        lines.append({"codes": name, "text": words(i, 2 + i % 3), "speaker": f"s{i % 2}"})
    return manifest(folder, *lines)


def toy_recipe(name: str, changes: dict[str, str], folder: Path) -> Path:
    """Write the shipped recipe `name` to `folder` with `changes`, each of which must hit something."""
    text = (resources.files("sottovoce.compress") / "recipes" / f"{name}.toml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path
