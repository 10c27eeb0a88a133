"""Variants of a graph file for parity checks: changed nodes over the same bytes of weights. Nothing is written."""

from collections.abc import Iterator
from pathlib import Path

import onnx


def float_graph(path: Path) -> onnx.ModelProto:
    """The graph in `path` with integer arithmetic turned off."""
    model = onnx.load(path, load_external_data=False)
    for node in every_node(model.graph):
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    return model


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from every_node(attribute.g)
