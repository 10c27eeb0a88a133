"""The codec decoder's matrices in eight bits: less than a third of its file, in 0.64 to 1.09 × the time; or in fp16.

Half of a small bundle, or more, is its codec. The encoder stays as it is: its codes must be torch's.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sottovoce.export.quantize import quantize
from sottovoce.export.weights import CONTRIB

BLOCK = 32
"""Weights of a scale. Larger ones lose more here than in the decoder: activations are rounded in blocks as large."""

MIN_ONNXRUNTIME = "1.23"
"""As for the decoder's own int8."""

SMALL = 1024
"""Numbers of a tensor that is not worth a cast."""


def in_half(model: onnx.ModelProto) -> None:
    """Store the float32 tensors of `model` as fp16, rounded, in place; those stay that would be infinite there.

    The engine makes float32 of them when it loads: a format of the file, in which nothing is computed.
    """
    graph, casts = model.graph, []
    for item in graph.initializer:
        values = numpy_helper.to_array(item)
        if values.dtype != np.float32 or values.size < SMALL or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name, half = item.name, f"{item.name}.fp16"
        item.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def in_eight_bits(model: onnx.ModelProto) -> None:
    """Turn the MatMuls of `model` by a matrix [K, N] of K ≥ BLOCK into MatMulNBits, in place."""
    graph = model.graph
    stored = {item.name: item for item in graph.initializer}
    matrices = {name: item for name, item in stored.items() if len(item.dims) == 2 and item.dims[0] >= BLOCK}
    for node in graph.node:
        if node.op_type == "MatMul" and (matrix := matrices.get(node.input[1])) is not None:
            stored |= {tensor.name: tensor for tensor in _blocks(matrix)}
            node.CopyFrom(_product(node, matrix))
    kept = [stored[name] for name in sorted(stored.keys() & {name for node in graph.node for name in node.input})]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model.opset_import.append(helper.make_opsetid(CONTRIB, 1))


def _blocks(matrix: TensorProto) -> list[TensorProto]:
    """The packed values and scales of `matrix`."""
    parts = quantize(np.ascontiguousarray(numpy_helper.to_array(matrix).T), BLOCK, 8)
    return [numpy_helper.from_array(part, name) for part, name in zip(parts, _names(matrix), strict=True)]


def _names(matrix: TensorProto) -> tuple[str, str]:
    """What its values and scales are called."""
    return f"{matrix.name}.q8", f"{matrix.name}.scales"


def _product(node: NodeProto, matrix: TensorProto) -> NodeProto:
    """The same product by the matrix in blocks."""
    inputs, outputs = [node.input[0], *_names(matrix)], list(node.output)
    sizes = {"K": matrix.dims[0], "N": matrix.dims[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
    return helper.make_node("MatMulNBits", inputs, outputs, node.name, domain=CONTRIB, **sizes)
