"""Graphs of products alone, in the widths of a Qwen2-0.5B layer: what each kernel of ONNX Runtime makes of memory.

A layer is 896 → 1152 → 896 → 9728 → 896 (QKV, output, gate and up, down; down reads both halves). As many layers are
chained as make SIZE bytes, so that every graph reads the same. Values are random; scales keep activations near 1.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

LAYER: Final = ((896, 1152), (1152, 896), (896, 9728), (9728, 896))
"""K and N of the products."""

APART: Final = {"QKV": (896, 128, 128), "gate and up": (4864, 4864)}
"""Products that are fused, and the N of those that they are made of."""

SIZE: Final = 256 << 20
"""Bytes of weights, about."""

IN_CACHE: Final = ", in the cache"
"""What the name of a graph ends in that has products of 896 with 896 alone, as many as a core's own cache holds."""

CACHED: Final = 1_500_000
"""Bytes of their weights, about."""

Product = Callable[["Chain", str, int, int], str]
"""Appends to a chain the product of a value [1,K] with a matrix of its own; returns the name of the result [1,N]."""


class Chain:
    """The graph under construction."""

    def __init__(self) -> None:
        """Empty."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.bytes = 0
        self.random = np.random.default_rng(0)

    def node(self, op: str, inputs: list[str], domain: str = "", **attributes: object) -> str:
        """Append a node with one output; returns its name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def weight(self, array: np.ndarray, element: int | None = None, shape: tuple[int, ...] = ()) -> str:
        """An initializer; as `element` of `shape` where numpy has no such type."""
        tensor = from_array(array, f"w{len(self.weights)}")
        if element is not None:
            tensor.data_type = element
            tensor.dims[:] = shape
        self.weights.append(tensor)
        self.bytes += array.nbytes
        return tensor.name

    def steps(self, *shape: int) -> np.ndarray:
        """Random bytes."""
        return np.frombuffer(self.random.bytes(int(np.prod(shape))), np.uint8).reshape(shape)


def floats(chain: Chain, x: str, k: int, n: int) -> str:
    """MatMul of float32."""
    return chain.node("MatMul", [x, chain.weight(chain.random.random((k, n), np.float32) * np.float32((3 / k) ** 0.5))])


def blocks(chain: Chain, x: str, k: int, n: int, *, bits: int, block: int, level: int = 4, zeros: bool = False) -> str:
    """MatMulNBits; `level` is its accuracy level, `zeros` gives each block a zero point."""
    count = k // block
    inputs = [x, chain.weight(chain.steps(n, count, block * bits // 8)), chain.weight(_scales(k, bits, (n, count)))]
    inputs += [chain.weight(chain.steps(n, -(-count * bits // 8)))] if zeros else []
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": level}
    return chain.node("MatMulNBits", inputs, "com.microsoft", **attributes)


def dynamic(chain: Chain, x: str, k: int, n: int) -> str:
    """DynamicQuantizeMatMul: int8 with a scale per channel."""
    inputs = [x, chain.weight(chain.steps(k, n).view(np.int8)), chain.weight(_scales(k, 8, (n,)))]
    return chain.node("DynamicQuantizeMatMul", inputs, "com.microsoft")


def qdq(chain: Chain, x: str, k: int, n: int, *, bits: int, block: int | None) -> str:
    """DequantizeLinear, over blocks of K or (None) per channel, then MatMul."""
    steps = chain.steps(k * bits // 8, n)
    element = TensorProto.INT4 if bits == 4 else TensorProto.INT8
    scales = _scales(k, bits, (k // block, n) if block else (n,))
    inputs = [chain.weight(steps, element, (k, n)), chain.weight(scales)]
    whole = chain.node("DequantizeLinear", inputs, axis=0 if block else 1, block_size=block or 0)
    return chain.node("MatMul", [x, whole])


def apart(product: Product, fused: str, chain: Chain, x: str, k: int, n: int) -> str:
    """The product that is called `fused` as those that it was fused from, others as they are."""
    parts = [product(chain, x, k, part) for part in (APART[fused] if sum(APART[fused]) == n else (n,))]
    return parts[0] if len(parts) == 1 else chain.node("Concat", parts, axis=1)


def _scales(k: int, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Scales for which an output is about as large as its input."""
    return np.full(shape, (12 / k) ** 0.5 / 2**bits, np.float32)


def write(name: str, product: Product, path: Path) -> int:
    """Write the graph of `product`, called `name`, with its weights beside it; returns their bytes."""
    chain, value = Chain(), "x"
    layer, size = (((LAYER[0][0], LAYER[0][0]),), CACHED) if name.endswith(IN_CACHE) else (LAYER, SIZE)
    while chain.bytes < size:
        for k, n in layer:
            value = product(chain, value, k, n)
    ends = [make_tensor_value_info(name, TensorProto.FLOAT, [1, LAYER[0][0]]) for name in ("x", value)]
    graph = make_graph(chain.nodes, "kernel", ends[:1], ends[1:], chain.weights)
    opsets = [make_opsetid("", 21), make_opsetid("com.microsoft", 1)]
    onnx.save(
        make_model(graph, opset_imports=opsets, ir_version=10),
        path,
        save_as_external_data=True,
        location=f"{path.name}.data",
    )
    return chain.bytes


GRAPHS: Final[dict[str, Product]] = {
    "MatMul, fp32": floats,
    **{f"MatMulNBits, int8, block {b}": partial(blocks, bits=8, block=b) for b in (32, 64, 128)},
    **{f"MatMulNBits, int4, block {b}": partial(blocks, bits=4, block=b) for b in (32, 64, 128)},
    "MatMulNBits, int2, block 64": partial(blocks, bits=2, block=64),
    "MatMulNBits, int8, block 128, level 0": partial(blocks, bits=8, block=128, level=0),
    "MatMulNBits, int4, block 128, level 0": partial(blocks, bits=4, block=128, level=0),
    "MatMulNBits, int4, block 128, zero points": partial(blocks, bits=4, block=128, zeros=True),
    **{
        f"MatMulNBits, int{bits}, block 128, {fused} apart": partial(
            apart, partial(blocks, bits=bits, block=128), fused
        )
        for fused in APART
        for bits in (8, 4)
    },
    "DynamicQuantizeMatMul, int8 per channel": dynamic,
    "QDQ, int8, block 128": partial(qdq, bits=8, block=128),
    "QDQ, int4, block 128": partial(qdq, bits=4, block=128),
    "QDQ, int8 per channel": partial(qdq, bits=8, block=None),
    **{f"MatMulNBits, int{bits}, block 128{IN_CACHE}": partial(blocks, bits=bits, block=128) for bits in (8, 4)},
}
"""What is timed, by name."""
