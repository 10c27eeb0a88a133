"""The fused attention of a step, alone: over more and more slots, in each way that the engine can be asked for it.

    python -m benchmarks.attention [--threads N] [--rounds 5]

24 layers of 14 query and 2 KV heads of 64 (Qwen2-0.5B), fp32 caches of their own, one token over all slots. The
engine attends in tiles or over whole rows of scores, as its environment says when it opens a graph; and it multiplies
scores by 1 / √D or, where that is in the weights of queries already, by 1. All four take turns in one process. No gate.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from benchmarks.folders import kept_folder
from sottovoce.runtime.session import NO_TILES, open_session

SLOTS: Final = (64, 128, 192, 384, 1024, 4096)
RUNS: Final = 20
"""Runs of a turn; the first few are not counted."""


@dataclass(frozen=True)
class Shape:
    """Of the attention, and of how many layers in a chain."""

    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    head_dim: int = 64


WAYS: Final = {
    "tiles, by 1 / √D (the engine's default)": ("0", {}),
    "tiles, by 1": ("0", {"scale": 1.0}),
    "whole rows, by 1 / √D": ("1", {}),
    "whole rows, by 1 (the bundles here)": ("1", {"scale": 1.0}),
}
"""What the environment says, and attributes of the operator."""


def write(path: Path, shape: Shape, slots: int, attributes: dict[str, float]) -> None:
    """Layers of attention alone: the queries of one are the sums of the one before it."""
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kept = [1, shape.kv_heads, slots, shape.head_dim]
    caches = [f"{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]
    sizes = {"x": [1, 1, wide], "k": [1, 1, narrow], "v": [1, 1, narrow], "bias": [1, 1, 1, slots]}
    inputs = [make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    inputs += [
        make_tensor_value_info("last", TensorProto.INT32, [1]),
        make_tensor_value_info("all", TensorProto.INT32, []),
    ]
    inputs += [make_tensor_value_info(f"past.{name}", TensorProto.FLOAT, kept) for name in caches]
    nodes, x = [], "x"
    for layer in range(shape.layers):
        key, value = caches[2 * layer : 2 * layer + 2]
        given = [x, "k", "v", f"past.{key}", f"past.{value}", "last", "all", "", "", "", "bias"]
        made = [f"sum.{layer}", f"present.{key}", f"present.{value}"]
        nodes.append(
            make_node(
                "GroupQueryAttention",
                given,
                made,
                domain="com.microsoft",
                num_heads=shape.heads,
                kv_num_heads=shape.kv_heads,
                **attributes,
            )
        )
        x = made[0]
    outputs = [make_tensor_value_info(x, TensorProto.FLOAT, [1, 1, wide])]
    outputs += [make_tensor_value_info(f"present.{name}", TensorProto.FLOAT, kept) for name in caches]
    opsets = [make_opsetid("", 21), make_opsetid("com.microsoft", 1)]
    graph = make_graph(nodes, "attention", inputs, outputs)
    onnx.save(make_model(graph, opset_imports=opsets, ir_version=10), path)


class Side:
    """One way over buffers of its own, past and present the same."""

    def __init__(self, path: Path, shape: Shape, slots: int, threads: int, way: str) -> None:
        """Write the graph to `path`, open it and fill the buffers."""
        said, attributes = WAYS[way]
        write(path, shape, slots, attributes)
        os.environ[NO_TILES] = said
        try:
            self._session = open_session(path, threads)
        finally:
            del os.environ[NO_TILES]
        self.binding, random = self._session.io_binding(), np.random.default_rng(0)
        self._held: list[Any] = []
        narrow, wide = (1, 1, shape.kv_heads * shape.head_dim), (1, 1, shape.heads * shape.head_dim)
        feeds = {"x": random.standard_normal(wide, np.float32), "bias": np.zeros((1, 1, 1, slots), np.float32)}
        feeds |= {name: random.standard_normal(narrow, np.float32) for name in "kv"}
        for name, array in {**feeds, "last": np.array([slots - 1], np.int32), "all": np.array(slots, np.int32)}.items():
            self._bind(name, array)
        for layer in range(shape.layers):
            for part in ("key", "value"):
                room = random.standard_normal((1, shape.kv_heads, slots, shape.head_dim), np.float32)
                self.binding.bind_ortvalue_output(f"present.{layer}.{part}", self._bind(f"past.{layer}.{part}", room))
        self.binding.bind_output(f"sum.{shape.layers - 1}", "cpu")

    def _bind(self, name: str, array: np.ndarray) -> Any:
        """Bind an input to `array`, which is kept."""
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self._held += [array, value]
        self.binding.bind_ortvalue_input(name, value)
        return value

    def turn(self) -> float:
        """Median seconds of a run."""
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            self._session.run_with_iobinding(self.binding)
            times.append(time.perf_counter() - start)
        return statistics.median(times[RUNS // 4 :])


def measure(shape: Shape, slots: int, threads: int, rounds: int) -> dict[str, float]:
    """Median µs of a layer over `slots`, by way."""
    with kept_folder(None) as folder:
        sides = {way: Side(folder / f"{n}.onnx", shape, slots, threads, way) for n, way in enumerate(WAYS)}
        turns = [{way: side.turn() for way, side in sides.items()} for _ in range(rounds)]
    return {way: 1e6 * statistics.median(turn[way] for turn in turns) / shape.layers for way in WAYS}


def main(argv: Sequence[str] | None = None, shape: Shape | None = None, counts: Sequence[int] = SLOTS) -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every way (default: %(default)s)")
    args = parser.parse_args(argv)
    found = {slots: measure(shape or Shape(), slots, args.threads, args.rounds) for slots in counts}
    print("µs of a layer, over slots:\n")
    print(f"| | {' | '.join(map(str, counts))} |\n{'|---' * (len(counts) + 1)}|")
    for way in WAYS:
        print(f"| {way} | {' | '.join(f'{found[slots][way]:.0f}' for slots in counts)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
