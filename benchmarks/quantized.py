"""Every weight format beside the others in a Qwen2-0.5B shape: step time, bytes/s, peak memory and load time, one run.

    python -m benchmarks.quantized [--threads N] [--rounds 5] [--folder KEPT]

Formats take turns, each turn in a process of its own that runs a bundle as `sottovoce say` does, so that noise falls on
all of them and memory is nobody else's. Bytes/s are the weight file's bytes over the median step, as a share of a
read-only sweep over memory with the same threads, which numpy keeps in huge pages where it can. The default formats run
once more in processes that get none (Linux). `--folder` keeps the bundles for the next time. Gates: every quantized
format is faster than fp32, int8 reaches 85 % of the sweep, int4 70 %; int4 takes 90 MB beyond its weights on disk at
most, and 0.7 s to load; exit status 1 where one is missed.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.folders import kept_folder
from sottovoce.runtime.manifest import WeightFormat

PREFIX, WINDOW = 256, 128
FORMATS: Final[dict[str, tuple[WeightFormat, int | None]]] = {
    "fp32": ("fp32", None),
    "fp16": ("fp16", None),
    **{f"int8, block {block}": ("int8", block) for block in (32, 64, 128)},
    **{f"int4, block {block}": ("int4", block) for block in (32, 64, 128)},
}
SMALL: Final = ", small pages"
"""What the name of a row ends in whose processes get no huge pages."""

DEFAULTS: Final = ("int8, block 128", "int4, block 128")
"""Formats that have such a row."""

SHARES: Final = {"int8": 0.85, "int4": 0.70}
"""Gate: the best block's share of the sweep."""

BEYOND, LOAD = 90e6, 0.7
"""Gates of int4, the best block's: peak beyond the weights on disk, bytes; seconds to load, hashes included."""

THP_DISABLE: Final = 41
"""Linux's PR_SET_THP_DISABLE."""

SWEPT: Final = 256 << 20
"""Bytes of the sweep, more than a core's own caches hold."""


@dataclass(frozen=True)
class Setting:
    """HF `config`, `threads`, `rounds` of turns and `steps` timed in each."""

    config: dict[str, object]
    threads: int = 1
    rounds: int = 5
    steps: int = 60


def make_bundles(setting: Setting, folder: Path) -> dict[str, int]:
    """A bundle of each format in a folder of its number, all of one random checkpoint; bytes of each weight file."""
    from benchmarks.checkpoints import write_checkpoint, write_manifest
    from sottovoce.export.decoder import DATA, DecoderOptions, export_decoder
    from sottovoce.export.weight_recipe import WeightRecipe
    from sottovoce.models.checkpoint import Checkpoint

    if (folder / "sizes.json").exists():
        sizes: dict[str, int] = json.loads((folder / "sizes.json").read_text())
        return sizes
    write_checkpoint(folder / "checkpoint", setting.config)
    sizes = {}
    for number, (name, (weights, block)) in enumerate(FORMATS.items()):
        (folder / str(number)).mkdir()
        options = DecoderOptions(WeightRecipe(weights, block), PREFIX, WINDOW, PREFIX + WINDOW)
        parts = export_decoder(Checkpoint.open(folder / "checkpoint"), options, folder / str(number))
        write_manifest(folder / str(number), parts)
        sizes[name] = parts.sizes[DATA]
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return sizes


def rows() -> list[str]:
    """Names of all rows."""
    return [*FORMATS, *(name + SMALL for name in DEFAULTS if sys.platform == "linux")]


def sweep(threads: int, tries: int = 10) -> float:
    """Bytes/s of reading memory once through with `threads` threads, the median of `tries`."""
    parts = np.array_split(np.ones(SWEPT // 8), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(tries):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            seconds.append(time.perf_counter() - start)
    return SWEPT / statistics.median(seconds)


def small_pages() -> None:
    """Have the system give this process, and what it becomes, no huge pages."""
    if ctypes.CDLL(None).prctl(THP_DISABLE, 1, 0, 0, 0):
        raise OSError("the system refuses PR_SET_THP_DISABLE")


def in_own_process(folder: Path, setting: Setting, small: bool) -> dict[str, float]:
    """One turn's figures, of `small` pages where that is asked for."""
    sizes = setting.threads, PREFIX // 2, setting.steps
    command = [sys.executable, "-m", "benchmarks.quantized_turn", str(folder), *map(str, sizes)]
    made = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=small_pages if small else None
    )
    figures: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return figures


def measure(setting: Setting, folder: Path) -> dict[str, dict[str, float]]:
    """Medians over all rounds, by row, and the sweep's bytes/s between the turns as `sweep`."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in [*rows(), "sweep"]}
    for _ in range(setting.rounds):
        turns["sweep"].append({"rate": sweep(setting.threads)})
        for name in rows():
            number = list(FORMATS).index(name.removesuffix(SMALL))
            turns[name].append(in_own_process(folder / str(number), setting, name.endswith(SMALL)))
    return {name: {key: statistics.median(t[key] for t in made) for key in made[0]} for name, made in turns.items()}


def report(found: dict[str, dict[str, float]], sizes: dict[str, int]) -> bool:
    """Print a Markdown table and the gates; True where all are met."""
    rate, base = found["sweep"]["rate"], found["fp32"]["step"]
    print(f"read-only sweep {rate / 1e9:.1f} GB/s\n")
    print("| weights | file MB | step ms | × fp32 | GB/s | of the sweep | peak − file MB | load s | of it hashes |")
    print("|" + "---|" * 9)
    for name in rows():
        row, size = found[name], sizes[name.removesuffix(SMALL)]
        cells = [f"{size / 1e6:.0f}", f"{1e3 * row['step']:.2f}", f"{row['step'] / base:.2f}"]
        cells += [f"{size / row['step'] / 1e9:.1f}", f"{size / row['step'] / rate:.0%}"]
        cells += [f"{(row['peak'] - size) / 1e6:.0f}", f"{row['hashes'] + row['decoder']:.2f}", f"{row['hashes']:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    met = gates(found, sizes)
    for text, ok in met:
        print(f"{'ok  ' if ok else 'MISS'} {text}")
    return all(ok for _, ok in met)


def gates(found: dict[str, dict[str, float]], sizes: dict[str, int]) -> list[tuple[str, bool]]:
    """Each gate in words, and whether it is met."""
    of_kind = {kind: [name for name in sizes if FORMATS[name][0] == kind] for kind in SHARES}
    slower = [name for names in of_kind.values() for name in names if found[name]["step"] >= found["fp32"]["step"]]
    met = [(f"no quantized format slower than fp32 {slower}", not slower)]
    for kind, names in of_kind.items():
        share = max((sizes[n] / found[n]["step"] / found["sweep"]["rate"] for n in names), default=0.0)
        met.append((f"{kind}: {share:.0%} of the sweep (at least {SHARES[kind]:.0%})", share >= SHARES[kind]))
    beyond = min((found[name]["peak"] - sizes[name] for name in of_kind["int4"]), default=0.0)
    load = min((found[name]["hashes"] + found[name]["decoder"] for name in of_kind["int4"]), default=0.0)
    met.append((f"int4: peak − file {beyond / 1e6:.0f} MB (at most {BEYOND / 1e6:.0f})", beyond <= BEYOND))
    return [*met, (f"int4: load {load:.2f} s (at most {LOAD})", load <= LOAD)]


def main(argv: Sequence[str] | None = None, config: dict[str, Any] | None = None) -> int:
    """Make bundles, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every format, 0 only makes them (default: 5)")
    parser.add_argument("--steps", type=int, default=60, help="steps timed in a turn (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the bundles here")
    args = parser.parse_args(argv)
    from benchmarks.shape05b import CONFIG

    setting = Setting(config or CONFIG, args.threads, args.rounds, args.steps)
    with kept_folder(args.folder) as folder:
        sizes = make_bundles(setting, folder)
        return 0 if not args.rounds or report(measure(setting, folder), sizes) else 1


if __name__ == "__main__":
    sys.exit(main())
