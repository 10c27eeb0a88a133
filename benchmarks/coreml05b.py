"""A Qwen2-0.5B-shaped decoder as Core ML packages: conversion time, peak memory of the host, sizes of each format.

    python -m benchmarks.coreml05b               every format, each in a process of its own, one thread
    python -m benchmarks.coreml05b --layers 4    the same with fewer layers, where 24 are too much for the machine

Weights are random: sizes do not depend on their values, time hardly. Gate: two functions hold one copy of the weights.
Exit status 1 where it is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

from benchmarks.shape05b import CONFIG, PREFIX, WINDOW
from sottovoce.devices.memory import read_memory

MEGABYTE = 1e6
SHARED = 1.01
"""Gate: bytes of the merged fp16 package over those of its matrices, once."""


def convert(weights: str, layers: int, folder: Path) -> dict[str, Any]:
    """Write one package; seconds, peak bytes of this process, bytes on disk, bytes that the matrices need."""
    import torch

    from sottovoce.export.coreml.decoder import PACKAGE, write_decoder
    from sottovoce.export.coreml.layout import Layout
    from sottovoce.models.config import DecoderConfig
    from sottovoce.models.decoder import Decoder

    torch.set_num_threads(1)
    decoder = Decoder(DecoderConfig.from_hf({**CONFIG, "num_hidden_layers": layers})).eval()
    ids = range(decoder.config.vocab_size)
    layout = Layout(decoder.config, PREFIX + WINDOW, len(ids), 32, False)
    before, start = read_memory().peak, time.perf_counter()
    write_decoder(decoder, layout, ids, PREFIX + WINDOW, weights, folder)  # type: ignore[arg-type]
    size = sum(path.stat().st_size for path in (folder / PACKAGE).rglob("*") if path.is_file())
    needed = 2 * sum(p.numel() for p in decoder.model.layers.parameters()) + 2 * decoder.head.numel()
    return {
        "weights": weights,
        "seconds": time.perf_counter() - start,
        "before": before,
        "peak": read_memory().peak,
        "bytes": size,
        "needed": needed,
    }


def in_own_process(weights: str, layers: int) -> dict[str, Any]:
    """One format's figures; its memory is nobody else's."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.coreml05b", "--weights", weights, "--folder", folder]
        result = subprocess.run([*command, "--layers", str(layers)], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def main() -> int:
    """Convert to one format, or to all of them in processes of their own."""
    from sottovoce.export.coreml.convert import Compression

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"], help="(default: %(default)s)")
    parser.add_argument("--weights", choices=get_args(Compression), help="this format alone; figures as JSON")
    parser.add_argument("--folder", type=Path, help="with --weights: where the package goes")
    args = parser.parse_args()
    if args.weights:
        print(json.dumps(convert(args.weights, args.layers, args.folder)))
        return 0
    print(f"{args.layers} layers of Qwen2-0.5B's shape, prefix {PREFIX}, window {WINDOW}")
    passed = True
    for weights in get_args(Compression):
        found = in_own_process(weights, args.layers)
        sizes = f"{found['bytes'] / MEGABYTE:.1f} MB of {found['needed'] / MEGABYTE:.1f} MB as fp16"
        print(f"  {weights:9}{found['seconds']:7.1f} s, peak {found['peak'] / MEGABYTE:.0f} MB, {sizes}", flush=True)
        if weights == "fp16":
            ratio = found["bytes"] / found["needed"]
            passed = ratio <= SHARED
            print(f"{'ok  ' if passed else 'MISS'} fp16 package / matrices once: {ratio:.4f} (at most {SHARED})")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
