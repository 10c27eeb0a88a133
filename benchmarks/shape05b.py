"""A Qwen2-0.5B-shaped decoder: time and peak of its export, flatness of its steps, peak of a process that runs it.

    python -m benchmarks.shape05b            every stage, each in a process of its own, one thread

Weights are random: time and memory do not depend on their values. Prints one line per gate; exit status 1 where one is
missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sottovoce.devices.memory import read_memory
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 6600,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
PREFIX, WINDOW = 256, 512
EARLY, LATE = range(50, 150), range(1950, 2050)
"""Steps that are compared; the early ones read the slots in use alone, fewer than late ones: that misses the gate."""

RUNS = 5
MEGABYTE = 1e6


def make_checkpoint(folder: Path) -> dict[str, Any]:
    """Write the HF folder, fp16; returns the bytes its weights take as float32."""
    from benchmarks.checkpoints import write_checkpoint

    return {"fp32_bytes": 4 * write_checkpoint(folder, CONFIG)}


def export(folder: Path) -> dict[str, Any]:
    """Export to int8 as `sottovoce export --decoder-only` does, verification included."""
    import torch

    from sottovoce.export.assemble import Progress, export_bundle
    from sottovoce.export.plan import Request

    torch.set_num_threads(1)
    stages, start = [], time.perf_counter()
    progress = Progress(stage=lambda name: stages.append((name, time.perf_counter() - start)))
    request = Request("int8", WINDOW, PREFIX, decoder_only=True)
    manifest = export_bundle(folder, folder / "bundle", request, progress=progress)
    seconds = time.perf_counter() - start
    disk = sum(manifest.files[name].size for name in ("decoder.onnx", "decoder.onnx.data"))
    return {"seconds": seconds, "stages": stages, "peak": read_memory().peak, "disk_bytes": disk}


def run(folder: Path) -> dict[str, Any]:
    """Load, read a full prefix and speak once round the ring and more: the peak of a process that only runs."""
    stream = Stream(load_bundle(folder / "bundle", threads=1))
    stream.prefill(range(PREFIX))
    for step in range(WINDOW + 50):
        stream.step(step)
    return {"peak": read_memory().peak, "cache_bytes": stream.cache.nbytes}


def flatness(folder: Path) -> dict[str, Any]:
    """Median step of the early and of the late window, their steps taken in turns, so that noise falls on both."""
    bundle = load_bundle(folder / "bundle", threads=1)
    early, late = Stream(bundle), Stream(bundle)
    medians = []
    for _ in range(RUNS):
        for stream, window in ((early, EARLY), (late, LATE)):
            stream.prefill(range(PREFIX))
            for step in range(window.start):
                stream.step(step)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in EARLY:
            for stream, seconds in zip((early, late), times, strict=True):
                start = time.perf_counter()
                stream.step(stream.cache.generated)
                seconds.append(time.perf_counter() - start)
        medians.append((statistics.median(times[0]), statistics.median(times[1])))
    return {"medians": medians, "generated": late.cache.generated}


STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "checkpoint": make_checkpoint,
    "export": export,
    "run": run,
    "flatness": flatness,
}


def in_own_process(stage: str, folder: Path) -> dict[str, Any]:
    """One stage's figures; its memory is nobody else's."""
    command = [sys.executable, "-m", "benchmarks.shape05b", "--stage", stage, "--folder", str(folder)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def report(made: dict[str, Any], exported: dict[str, Any], ran: dict[str, Any], flat: dict[str, Any]) -> bool:
    """Print figures and gates; True where all are met."""
    ratios = [late / early for early, late in flat["medians"]]
    for (early, late), ratio in zip(flat["medians"], ratios, strict=True):
        print(f"  step {1e3 * early:6.2f} ms early, {1e3 * late:6.2f} ms late, ratio {ratio:.3f}")
    print("  export stages: " + ", ".join(f"{name} from {start:.1f} s" for name, start in exported["stages"]))
    print(f"  int8 on disk {exported['disk_bytes'] / MEGABYTE:.1f} MB, cache {ran['cache_bytes'] / MEGABYTE:.1f} MB")
    export_peak, extra = exported["peak"] / made["fp32_bytes"], (ran["peak"] - exported["disk_bytes"]) / MEGABYTE
    gates = [
        ("export and verification, s", exported["seconds"], 120.0),
        ("export peak / fp32 weights", export_peak, 2.5),
        ("step late / early, median of runs", statistics.median(ratios), 1.03),
        ("process peak − weights on disk, MB", extra, 130.0),
    ]
    for name, value, limit in gates:
        print(f"{'ok  ' if value <= limit else 'MISS'} {name}: {value:.3f} (at most {limit:g})")
    return all(value <= limit for _, value, limit in gates)


def main() -> int:
    """Run one stage, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, help="run this stage alone and print its figures as JSON")
    parser.add_argument("--folder", type=Path, help="where that stage finds and leaves its files")
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(STAGES[args.stage](args.folder)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return 0 if report(*(in_own_process(stage, Path(folder)) for stage in STAGES)) else 1


if __name__ == "__main__":
    sys.exit(main())
