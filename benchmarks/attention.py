"""The fused attention of a step, alone: over more and more slots, in each way that the engine can be asked for it.

    python -m benchmarks.attention [--threads N] [--rounds 5]

24 layers of 14 query and 2 KV heads of 64 (Qwen2-0.5B), caches of their own, one token over all slots. The engine
attends in tiles or not, as its environment says when it opens a graph; and it multiplies scores by 1 / √D or, where
that is in the weights of queries already, by 1. All ways take turns in one process. No gate.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid
from onnx.helper import make_tensor_value_info as value_info

from benchmarks.folders import kept_folder
from sottovoce.runtime.session import NO_TILES, open_session

SLOTS: Final = (64, 128, 192, 384, 1024, 4096)
"""All of them in use."""

RUNS: Final = 20
"""Runs of a turn; the first few are not counted."""


@dataclass(frozen=True)
class Shape:
    """Of the attention, and of how many layers in a chain."""

    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    head_dim: int = 64


@dataclass(frozen=True)
class Way:
    """What the environment says of tiles, `off` "0" or "1"; the operator's scale, 0 for its default; int8 caches."""

    off: str
    scale: float = 0.0
    int8: bool = False


WAYS: Final = {
    "tiles, by 1 / √D (the engine's default)": Way("0"),
    "tiles, by 1": Way("0", 1.0),
    "no tiles, by 1 / √D": Way("1"),
    "no tiles, by 1 (bundles here, on x86)": Way("1", 1.0),
    "int8 cache, tiles, by 1": Way("0", 1.0, int8=True),
    "int8 cache, no tiles, by 1 (bundles here, on x86)": Way("1", 1.0, int8=True),
}


def write(path: Path, shape: Shape, slots: int, way: Way) -> None:
    """Layers of attention alone: the queries of one are the sums of the one before it."""
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    room, kind = [1, shape.kv_heads, slots, shape.head_dim], TensorProto.INT8 if way.int8 else TensorProto.FLOAT
    caches = [f"{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]
    sizes = {"x": [1, 1, wide], "k": [1, 1, narrow], "v": [1, 1, narrow], "bias": [1, 1, 1, slots], "step": [1]}
    inputs = [value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    inputs += [value_info("last", TensorProto.INT32, [1]), value_info("all", TensorProto.INT32, [])]
    inputs += [value_info(f"past.{name}", kind, room) for name in caches]
    attributes: dict[str, object] = {"num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "scale": way.scale}
    if way.int8:
        attributes |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
    nodes, x = [], "x"
    for layer in range(shape.layers):
        key, value = caches[2 * layer : 2 * layer + 2]
        given = [x, "k", "v", f"past.{key}", f"past.{value}", "last", "all", "", "", "", "bias"]
        given += ["", "step", "step"] if way.int8 else []
        made = [f"sum.{layer}", f"present.{key}", f"present.{value}"]
        nodes.append(make_node("GroupQueryAttention", given, made, domain="com.microsoft", **attributes))
        x = made[0]
    outputs = [value_info(x, TensorProto.FLOAT, [1, 1, wide])]
    outputs += [value_info(f"present.{name}", kind, room) for name in caches]
    graph = make_graph(nodes, "attention", inputs, outputs)
    opsets = [make_opsetid("", 21), make_opsetid("com.microsoft", 1)]
    onnx.save(make_model(graph, opset_imports=opsets, ir_version=10), path)


@contextmanager
def said_of_tiles(off: str) -> Iterator[None]:
    """The environment says `off` of tiles meanwhile."""
    before = os.environ.get(NO_TILES)
    os.environ[NO_TILES] = off
    try:
        yield
    finally:
        os.environ.pop(NO_TILES)
        os.environ |= {NO_TILES: before} if before is not None else {}


class Side:
    """One way over buffers of its own, past and present the same."""

    def __init__(self, path: Path, shape: Shape, slots: int, threads: int, way: Way) -> None:
        """Write the graph to `path`, open it and fill the buffers."""
        write(path, shape, slots, way)
        with said_of_tiles(way.off):
            self._session = open_session(path, threads)
        self._held: list[Any] = []
        self.binding, random = self._session.io_binding(), np.random.default_rng(0)
        feeds: dict[str, np.ndarray]
        feeds = {"last": np.array([slots - 1], np.int32), "all": np.array(slots, np.int32)}
        feeds |= {"bias": np.zeros((1, 1, 1, slots), np.float32), "step": np.array([0.03], np.float32)}
        for name, heads in {"x": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}.items():
            feeds[name] = random.standard_normal((1, 1, heads * shape.head_dim), np.float32)
        for name in {node.name for node in self._session.get_inputs()} & set(feeds):
            self._bind(name, feeds[name])
        for layer in range(shape.layers):
            for part in ("key", "value"):
                room = random.standard_normal((1, shape.kv_heads, slots, shape.head_dim), np.float32)
                room = np.rint(room / 0.03).clip(-128, 127).astype(np.int8) if way.int8 else room
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
        sides = {
            name: Side(folder / f"{n}.onnx", shape, slots, threads, way) for n, (name, way) in enumerate(WAYS.items())
        }
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
