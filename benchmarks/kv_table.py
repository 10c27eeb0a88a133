"""The cache of CosyVoice 2, IndexTTS 1.5 and Spark-TTS, full and windowed, beside WAND's table 1 (arXiv 2604.08558).

    python -m benchmarks.kv_table [--model NAME]

Checkpoints of those shapes with random weights are exported as `sottovoce export --decoder-only` does, with a window as
long as the speech and with the paper's; the bytes are those of the buffers that a stream on the bundle allocates, after
it has read its prompt and gone round its ring. Prompt lengths P are solved from the paper's own table, so that its
percentages test allocation and nothing else. Exit status 1 where one of them is off by more than a point.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shape05b import CONFIG
from sottovoce.export.assemble import export_bundle
from sottovoce.export.plan import Request
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.manifest import CacheFormat
from sottovoce.runtime.table import columns

POINT = 1.0
"""Gate: percentage points between the reduction found and the paper's."""


@dataclass(frozen=True)
class Paper:
    """A row of the paper's table: MB with full attention and with the window, and the reduction in percent."""

    full: float
    window: float
    reduction: float


@dataclass(frozen=True)
class Shape:
    """A model: HF config, range of speech ids, P, T generated tokens in 10 s, W, and the numbers its cache is in."""

    config: dict[str, Any]
    speech: tuple[int, int]
    prefix: int
    tokens: int
    window: int
    cache: CacheFormat
    paper: Paper


SHAPES = {
    "CosyVoice 2": Shape(
        config=CONFIG | {"vocab_size": 151_936 + 6_564},
        speech=(151_936, 158_500),
        prefix=187,
        tokens=250,
        window=32,
        cache="fp32",
        paper=Paper(10.48, 5.25, 49.9),
    ),
    # Its row fits half-precision numbers only. Text and speech ids share one table here, and so do their positions.
    "IndexTTS 1.5": Shape(
        config={
            "model_type": "gpt2",
            "vocab_size": 12_000 + 8_194,
            "n_embd": 1280,
            "n_layer": 24,
            "n_head": 20,
            "n_positions": 1408,
        },
        speech=(12_000, 20_194),
        prefix=79,
        tokens=250,
        window=32,
        cache="fp16",
        paper=Paper(38.44, 13.01, 66.2),
    ),
    "Spark-TTS": Shape(
        config=CONFIG | {"vocab_size": 166_000},
        speech=(157_808, 166_000),
        prefix=221,
        tokens=500,
        window=64,
        cache="fp32",
        paper=Paper(18.09, 7.15, 60.5),
    ),
}


@dataclass(frozen=True)
class Found:
    """Bytes of the key and value buffers of a stream, full attention and windowed."""

    full: int
    window: int

    @property
    def reduction(self) -> float:
        """Percent saved."""
        return 100 * (1 - self.window / self.full)


def measure(shape: Shape, folder: Path) -> Found:
    """Make the checkpoint in `folder`, then both bundles, one after the other: they are large."""
    write_checkpoint(folder / "checkpoint", shape.config)
    return Found(*(allocated(shape, folder, window) for window in (shape.tokens, shape.window)))


def allocated(shape: Shape, folder: Path, window: int) -> int:
    """Bytes that a stream allocates for keys and values on the bundle with that window, and speaks in."""
    request = Request("int8", window, shape.prefix, decoder_only=True, head_ids=(shape.speech,), cache=shape.cache)
    bundle = folder / f"window-{window}"
    export_bundle(folder / "checkpoint", bundle, request)
    stream = Stream(load_bundle(bundle, threads=1))
    ids = range(*shape.speech)
    stream.prefill(ids[: shape.prefix])
    for token in ids[: window + 1]:
        stream.step(token)
    nbytes = stream.cache.nbytes
    shutil.rmtree(bundle)
    return nbytes


def line(name: str, shape: Shape, found: Found) -> list[str]:
    """A row of the table."""
    paper = shape.paper
    sizes = [f"{found.full / 1e6:.2f}", f"{paper.full:.2f}", f"{found.window / 1e6:.2f}", f"{paper.window:.2f}"]
    slots = [str(shape.prefix), str(shape.tokens), str(shape.window), shape.cache]
    return [name, *slots, *sizes, f"{found.reduction:.1f} %", f"{paper.reduction:.1f} %"]


HEADER = ("model", "P", "T", "W", "cache", "full MB", "paper", "windowed MB", "paper", "saved", "paper")


def report(found: dict[str, Found], shapes: dict[str, Shape]) -> bool:
    """Print the table and a line per gate; True where all are met."""
    print(columns([HEADER, *(line(name, shapes[name], each) for name, each in found.items())], indent=""))
    met = []
    for name, each in found.items():
        off = abs(each.reduction - shapes[name].paper.reduction)
        met.append(off <= POINT)
        print(
            f"{'ok  ' if met[-1] else 'MISS'} {name}: {off:.2f} points from the paper's reduction (at most {POINT:g})"
        )
    return all(met)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every model, or one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, help="this one alone")
    args = parser.parse_args(argv)
    found = {}
    for name in [args.model] if args.model else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(SHAPES[name], Path(folder))
    return 0 if report(found, SHAPES) else 1


if __name__ == "__main__":
    sys.exit(main())
