"""The codec decoder's matrices in eight bits: less than a third of its file, in up to 1.05 × the time.

Half of a small bundle, or more, is its codec. The encoder stays as it is: its codes must be torch's.
"""

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from sottovoce.export.quantize import quantize

BLOCK = 32
"""Weights of a scale. Of the reference voice's codec, 128 lose 7 dB more: activations are rounded by
blocks of as many."""

MIN_ONNXRUNTIME = "1.23"
"""As for the decoder's own int8."""

CONTRIB = "com.microsoft"


def in_eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place: MatMuls by a matrix [K, N] of K ≥ BLOCK become MatMulNBits."""
    graph = model.graph
    matrices = {item.name: item for item in graph.initializer if len(item.dims) == 2 and item.dims[0] >= BLOCK}
    nodes = list(graph.node)
    products = {id(n): matrices[n.input[1]] for n in nodes if n.op_type == "MatMul" and n.input[1] in matrices}
    shared = {name for node in nodes if id(node) not in products for name in node.input}
    del graph.node[:]
    for node in nodes:
        matrix = products.get(id(node))
        graph.node.append(node if matrix is None else _product(graph, node, matrix))
    gone = {matrix.name for matrix in products.values()} - shared
    kept = [item for item in graph.initializer if item.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return model


def _product(graph: onnx.GraphProto, node: NodeProto, matrix: onnx.TensorProto) -> NodeProto:
    """The same product by the matrix in blocks, whose bytes and scales join the graph."""
    names = f"{matrix.name}.q8", f"{matrix.name}.scales"
    if all(item.name != names[0] for item in graph.initializer):
        parts = quantize(np.ascontiguousarray(numpy_helper.to_array(matrix).T), BLOCK, 8)
        graph.initializer.extend(numpy_helper.from_array(part, name) for part, name in zip(parts, names, strict=True))
    sizes = {"K": matrix.dims[0], "N": matrix.dims[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
    return helper.make_node(
        "MatMulNBits", [node.input[0], *names], list(node.output), node.name, domain=CONTRIB, **sizes
    )
