"""How a graph holds matrices in one format, float or quantized: each emits its nodes and reserves its bytes.

A tied head reads its rows out of the embedding, whatever the format.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from onnx import TensorProto

from sottovoce.export.quantize import quantize, quantized_shapes
from sottovoce.export.weights import CONTRIB, EMBEDDING, Nodes, Ranges, Source

HEAD_ROWS = 2048
"""Rows of a tied, quantized head in one product: while the engine packs a matrix, it holds it twice."""

Rounding = Callable[[tuple[str, ...], np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]
"""Names of linear modules, their stacked weights [N, K], block and bits → what `quantize` returns."""


def nearest(_: tuple[str, ...], weight: np.ndarray, block: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Every weight to its nearest step."""
    return quantize(weight, block, bits)


class Matrices(Protocol):
    """Matrices in one format; the methods are those of `Weights`."""

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """See `Weights`."""

    def embedding(self, nodes: Nodes, ids: str, name: str) -> str:
        """See `Weights`."""

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """See `Weights`."""


class FloatMatrices:
    """float32 products; in the file float32 or float16, which the engine casts once, when it loads them."""

    def __init__(self, kind: type[np.float32] | type[np.float16]) -> None:
        """`kind` of number in the file."""
        self.kind = kind

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """MatMul over the transposed matrix, then Add."""
        names = [f"{module}.weight" for module in modules]
        rows, columns = nodes.source.matrix_shape(*names)
        self._store(nodes, names[-1], (columns, rows), lambda: nodes.source.read(*names).T)
        out = nodes.add("MatMul", [x, self._cast(nodes, names[-1])], f"{modules[-1]}.matmul")
        bias = nodes.bias(modules)
        return nodes.add("Add", [out, bias], f"{modules[-1]}.out") if bias else out

    def embedding(self, nodes: Nodes, ids: str, name: str) -> str:
        """Gather; a float16 table stays one, its rows are cast."""
        if EMBEDDING not in nodes.file:
            self._store(nodes, EMBEDDING, nodes.source.shapes[EMBEDDING], lambda: nodes.source.read(EMBEDDING))
        if self.kind is np.float32:
            return nodes.add("Gather", [EMBEDDING, ids], name)
        return nodes.add("Cast", [nodes.add("Gather", [EMBEDDING, ids], f"{name}.half")], name, to=TensorProto.FLOAT)

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """Gemm over untransposed rows, one per range where they are the embedding's own bytes."""
        width = nodes.source.config.hidden_size
        if nodes.source.config.tied_head:
            for start, end in ranges:
                nodes.file.share(f"lm_head.{start}.weight", EMBEDDING, (start, end), (end - start, width))
            names = [f"lm_head.{start}.weight" for start, _ in ranges]
        else:
            shape = (sum(end - start for start, end in ranges), width)
            self._store(nodes, "lm_head.weight", shape, lambda: _rows(nodes.source, ranges))
            names = ["lm_head.weight"]
        pieces = [(self._cast(nodes, name), name.removesuffix("weight") + "out") for name in names]
        return [nodes.add("Gemm", [x, rows], out, transB=1) for rows, out in pieces]

    def _store(self, nodes: Nodes, name: str, shape: tuple[int, int], read: Callable[[], np.ndarray]) -> None:
        """Reserve `name` for the matrix that `read` returns."""
        nodes.file.add({name: (self.kind, shape)}, lambda: [read().astype(self.kind, copy=False)])

    def _cast(self, nodes: Nodes, name: str) -> str:
        """The stored matrix as float32."""
        return name if self.kind is np.float32 else nodes.add("Cast", [name], f"{name}.float", to=TensorProto.FLOAT)


class QuantizedMatrices:
    """Integers in blocks of K that share a scale; products are of integers too (`accuracy_level` 4)."""

    def __init__(self, bits: int, block: int, rounding: Rounding = nearest) -> None:
        """`rounding` is the linear modules'; tables are rounded to the nearest."""
        self.bits, self.block, self.rounding = bits, block, rounding

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """MatMulNBits with the bias inside."""
        names = [f"{module}.weight" for module in modules]
        shape = nodes.source.matrix_shape(*names)
        self._store(
            nodes, names[-1], shape, lambda: self.rounding(modules, nodes.source.read(*names), self.block, self.bits)
        )
        return self._matmul(nodes, x, names[-1], shape, nodes.bias(modules))

    def embedding(self, nodes: Nodes, ids: str, name: str) -> str:
        """GatherBlockQuantized, over bytes laid out as MatMulNBits reads them."""
        shape = nodes.source.shapes[EMBEDDING]
        if EMBEDDING not in nodes.file:
            self._store(
                nodes,
                EMBEDDING,
                shape,
                lambda: quantize(nodes.source.read(EMBEDDING), self.block, self.bits),
                flat=True,
            )
        inputs = [EMBEDDING, ids, f"{EMBEDDING}.scales"]
        attributes = {"bits": self.bits, "block_size": self.block, "quantize_axis": 1, "gather_axis": 0}
        return nodes.add("GatherBlockQuantized", inputs, name, CONTRIB, **attributes)

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """MatMulNBits; where they are the embedding's own bytes one per range, of HEAD_ROWS at most."""
        width = nodes.source.config.hidden_size
        if not nodes.source.config.tied_head:
            shape = (sum(end - start for start, end in ranges), width)
            self._store(
                nodes, "lm_head.weight", shape, lambda: quantize(_rows(nodes.source, ranges), self.block, self.bits)
            )
            return [self._matmul(nodes, x, "lm_head.weight", shape, "")]
        outputs = []
        for start, end in _pieces(ranges):
            name, shape = f"lm_head.{start}.weight", (end - start, width)
            packed, scales = quantized_shapes(*shape, self.block, self.bits)
            nodes.file.share(name, EMBEDDING, (start, end), packed)
            nodes.file.share(f"{name}.scales", f"{EMBEDDING}.scales", (start, end), scales)
            outputs.append(self._matmul(nodes, x, name, shape, ""))
        return outputs

    def _store(
        self,
        nodes: Nodes,
        name: str,
        shape: tuple[int, int],
        make: Callable[[], tuple[np.ndarray, np.ndarray]],
        flat: bool = False,
    ) -> None:
        """Reserve `name` and `name.scales` for the values and scales that `make` returns of a matrix [N, K].

        `flat` joins a row's blocks.
        """
        packed, scales = quantized_shapes(*shape, self.block, self.bits)
        packed = (packed[0], packed[1] * packed[2]) if flat else packed

        def load() -> list[np.ndarray]:
            values, factors = make()
            return [values.reshape(packed), factors]

        nodes.file.add({name: (np.uint8, packed), f"{name}.scales": (np.float32, scales)}, load)

    def _matmul(self, nodes: Nodes, x: str, name: str, shape: tuple[int, int], bias: str) -> str:
        """x [.., K] times the quantized matrix `name` [N, K], in integers."""
        inputs = [x, name, f"{name}.scales", "", "", bias] if bias else [x, name, f"{name}.scales"]
        sizes = {"N": shape[0], "K": shape[1], "bits": self.bits, "block_size": self.block, "accuracy_level": 4}
        return nodes.add("MatMulNBits", inputs, name.removesuffix("weight") + "out", CONTRIB, **sizes)


def _pieces(ranges: Ranges) -> Iterator[tuple[int, int]]:
    """`ranges` in pieces of HEAD_ROWS at most."""
    for start, end in ranges:
        for first in range(start, end, HEAD_ROWS):
            yield first, min(first + HEAD_ROWS, end)


def _rows(source: Source, ranges: Ranges) -> np.ndarray:
    """The rows of an untied head that are kept."""
    head = source.read("lm_head.weight")
    return np.concatenate([head[start:end] for start, end in ranges])
