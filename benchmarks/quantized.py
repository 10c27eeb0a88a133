"""Every weight format beside the others in a Qwen2-0.5B shape: step time, bytes/s, peak memory and load time, one run.

    python -m benchmarks.quantized [--threads N] [--rounds 5]

Formats take turns, each turn in a process of its own, so that noise falls on all of them and memory is nobody else's.
Bytes/s are the weight file's bytes over the median step, as a share of a read-only sweep over memory with the same
threads. A second table has the same with huge pages (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, Linux with glibc 2.35 or
later). Gates: every quantized format is faster than fp32, int8 reaches 85 % of the sweep, int4 70 %; exit status 1
where one is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from sottovoce.devices.memory import read_memory
from sottovoce.runtime.manifest import CacheGroup, WeightFormat

PREFIX, WINDOW = 256, 128
FORMATS: Final[dict[str, tuple[WeightFormat, int | None]]] = {
    "fp32": ("fp32", None),
    "fp16": ("fp16", None),
    **{f"int8, block {block}": ("int8", block) for block in (32, 64, 128)},
    **{f"int4, block {block}": ("int4", block) for block in (32, 64, 128)},
}
SHARES: Final = {"int8": 0.85, "int4": 0.70}
"""Gate: the best block's share of the sweep."""

HUGE: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SWEPT: Final = 256 << 20
"""Bytes of the sweep, more than any cache holds."""


@dataclass(frozen=True)
class Setting:
    """HF `config`, `threads`, `rounds` of turns and `steps` timed in each."""

    config: dict[str, object]
    threads: int = 1
    rounds: int = 5
    steps: int = 60


def make_graphs(setting: Setting, folder: Path) -> dict[str, int]:
    """A graph of each format in a folder of its number, all of one random checkpoint; bytes of each weight file."""
    from benchmarks.checkpoints import write_checkpoint
    from sottovoce.export.decoder import DATA, DecoderOptions, export_decoder
    from sottovoce.export.weight_recipe import WeightRecipe
    from sottovoce.models.checkpoint import Checkpoint

    write_checkpoint(folder / "checkpoint", setting.config)
    sizes = {}
    for number, (name, (weights, block)) in enumerate(FORMATS.items()):
        (folder / str(number)).mkdir()
        options = DecoderOptions(WeightRecipe(weights, block), PREFIX, WINDOW, PREFIX + WINDOW)
        parts = export_decoder(Checkpoint.open(folder / "checkpoint"), options, folder / str(number))
        group = parts.cache.groups[0]
        (folder / str(number) / "shape.json").write_text(json.dumps([group.layers, group.kv_heads, group.head_dim]))
        sizes[name] = parts.sizes[DATA]
    return sizes


def turn(folder: Path, threads: int, steps: int) -> dict[str, float]:
    """In this process: seconds to open the graph, median seconds of a step once all buffers are warm, peak bytes."""
    from sottovoce.export.drive import Driver

    layers, heads, size = json.loads((folder / "shape.json").read_text())
    group = CacheGroup("backbone", layers, heads, size, PREFIX, WINDOW, "token", "fp32")
    start = time.perf_counter()
    driver = Driver(folder / "decoder.onnx", group, threads)
    opened = time.perf_counter() - start
    driver.prefill(list(range(PREFIX // 2)))
    times = []
    for step in range(steps + 5):
        start = time.perf_counter()
        driver.step(step)
        times.append(time.perf_counter() - start)
    return {"open": opened, "step": statistics.median(times[5:]), "peak": read_memory().peak}


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


def in_own_process(folder: Path, setting: Setting, environment: dict[str, str]) -> dict[str, float]:
    """One turn's figures."""
    command = [sys.executable, "-m", "benchmarks.quantized", "--turn", str(folder)]
    command += ["--threads", str(setting.threads), "--steps", str(setting.steps)]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    figures: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return figures


def measure(setting: Setting, folder: Path, environment: dict[str, str]) -> dict[str, dict[str, float]]:
    """Medians over all rounds, by format, and the sweep's bytes/s between the turns as `sweep`."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in [*FORMATS, "sweep"]}
    for _ in range(setting.rounds):
        turns["sweep"].append({"rate": sweep(setting.threads)})
        for number, name in enumerate(FORMATS):
            turns[name].append(in_own_process(folder / str(number), setting, environment))
    return {name: {key: statistics.median(t[key] for t in made) for key in made[0]} for name, made in turns.items()}


def report(found: dict[str, dict[str, float]], sizes: dict[str, int]) -> bool:
    """Print a Markdown table and the gates; True where all are met."""
    rate, base = found["sweep"]["rate"], found["fp32"]["step"]
    print(f"read-only sweep {rate / 1e9:.1f} GB/s\n")
    print("| weights | file MB | step ms | × fp32 | GB/s | of the sweep | peak − file MB | opens in s |")
    print("|---|---|---|---|---|---|---|---|")
    shares, slower = dict.fromkeys(SHARES, 0.0), []
    for name, size in sizes.items():
        row, share = found[name], size / found[name]["step"] / rate
        cells = [f"{size / 1e6:.0f}", f"{1e3 * row['step']:.2f}", f"{row['step'] / base:.2f}"]
        cells += [f"{size / row['step'] / 1e9:.1f}", f"{share:.0%}"]
        cells += [f"{(row['peak'] - size) / 1e6:.0f}", f"{row['open']:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
        if (kind := FORMATS[name][0]) in shares:
            shares[kind] = max(shares[kind], share)
            slower += [name] * (row["step"] >= base)
    gates: list[tuple[str, bool]] = [(f"no quantized format slower than fp32 {slower}", not slower)]
    gates += [
        (f"{kind}: {share:.0%} of the sweep ({SHARES[kind]:.0%})", share >= SHARES[kind])
        for kind, share in shares.items()
    ]
    for text, met in gates:
        print(f"{'ok  ' if met else 'MISS'} {text}")
    return all(met for _, met in gates)


def main(argv: Sequence[str] | None = None, config: dict[str, Any] | None = None) -> int:
    """One turn, or the whole of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turn", type=Path, help="time the graph in this folder alone and print JSON")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every format (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="steps timed in a turn (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.turn:
        print(json.dumps(turn(args.turn, args.threads, args.steps)))
        return 0
    from benchmarks.shape05b import CONFIG

    setting = Setting(config or CONFIG, args.threads, args.rounds, args.steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = make_graphs(setting, folder)
        met = report(measure(setting, folder, {}), sizes)
        print("\nwith huge pages:")
        report(measure(setting, folder, HUGE), sizes)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
