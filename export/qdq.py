"""Quantized matrices in standard operators: DequantizeLinear over blocks or channels, then MatMul (QDQ form, opset 21).

Matrices lie as [K,N] with blocks along K, as engines that have a fused kernel for the pair look for it. ONNX Runtime
makes one MatMulNBits of both: 4 bits from 1.21 on, 8 bits in 1.31; where it does not, the matrix is made float32 in
every step, which is slow. Values and scales are those of `quantize.py`. Letters: K in, N out, d hidden size.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from sottovoce.errors import OptionError
from sottovoce.export.formats import FormatWeights
from sottovoce.export.matrices import FloatMatrices, Matrices, Rounding, nearest
from sottovoce.export.quantize import PER_CHANNEL, quantize, unpack
from sottovoce.export.weight_recipe import BITS, WeightRecipe, recipe_of
from sottovoce.export.weights import EMBEDDING, Nodes, Ranges
from sottovoce.models.config import DecoderConfig
from sottovoce.runtime.manifest import MatrixSpec, WeightFormat

Values = tuple[np.ndarray, np.ndarray]
"""What `quantize` returns."""


class PortableWeights(FormatWeights):
    """`Weights` by a recipe in standard operators; an embedding in 4 bits has 8 (no Gather takes fewer)."""

    def __init__(self, config: DecoderConfig, recipe: WeightRecipe, rounding: Rounding = nearest) -> None:
        """Raises OptionError where a block does not fit the decoder."""
        super().__init__(config, recipe, rounding)
        if self.spec.embedding == "int4":
            self.spec = replace(self.spec, embedding="int8")

    def _common(self, config: DecoderConfig) -> int:
        """Blocks divide every width that a matrix reads: some engines (OpenVINO) take no others."""
        return math.gcd(config.hidden_size, config.intermediate_size, config.heads * config.head_dim)

    def _matrices(self, spec: MatrixSpec) -> Matrices:
        """The writer of a settled format."""
        if spec.block is None:
            return FloatMatrices(np.float16 if spec.format == "fp16" else np.float32)
        if spec.block != PER_CHANNEL and self._hidden % spec.block:
            raise OptionError(f"block {spec.block} does not divide {self._hidden}, as --flavour portable needs it to")
        return QdqMatrices(BITS[spec.format], spec.block, self._rounding)


def portable_weights_for(
    weights: WeightFormat | WeightRecipe, config: DecoderConfig, rounding: Rounding = nearest
) -> PortableWeights:
    """The matrices of a decoder by a format or recipe; OptionError where it asks for what cannot be."""
    return PortableWeights(config, recipe_of(weights), rounding)


class QdqMatrices:
    """Integers in blocks of K, or of a whole channel, that share a scale.

    A tied head has bytes of its own, since it lies on its side.
    """

    def __init__(self, bits: int, block: int, rounding: Rounding = nearest) -> None:
        """`rounding` is the linear modules'; tables are rounded to the nearest."""
        self.bits, self.block, self.rounding = bits, block, rounding

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """DequantizeLinear, MatMul, and Add where there is a bias."""
        names, source = [f"{module}.weight" for module in modules], nodes.source
        shape = source.matrix_shape(*names)
        block = self._block(shape[1])
        self._store(nodes, names[-1], shape, lambda: self.rounding(modules, source.read(*names), block, self.bits))
        out, bias = self._product(nodes, x, names[-1]), nodes.bias(modules)
        return nodes.add("Add", [out, bias], f"{modules[-1]}.out") if bias else out

    def embedding(self, nodes: Nodes, ids: str, name: str) -> str:
        """Rows of bytes and of their scales; only the rows that are read become floats."""
        rows, width = nodes.source.shapes[EMBEDDING]
        block = self._block(width)
        blocks = width // block

        def load() -> list[np.ndarray]:
            packed, scales = quantize(nodes.source.read(EMBEDDING), block, 8)
            return [_signed(packed.reshape(rows, width), 8), scales]

        if EMBEDDING not in nodes.file:
            shapes = {EMBEDDING: (np.int8, (rows, width)), f"{EMBEDDING}.scales": (np.float32, (rows, blocks))}
            nodes.file.add(shapes, load)  # type: ignore[arg-type]
            nodes.integers("embedding.blocks", [0, 0, blocks, block])
            nodes.integers("embedding.rows", [0, 0, width])
            nodes.integers("embedding.last", [-1])
        steps = nodes.add("Gather", [EMBEDDING, ids], f"{name}.bytes")
        values = nodes.add("Cast", [steps], f"{name}.steps", to=TensorProto.FLOAT)
        apart = nodes.add("Reshape", [values, "embedding.blocks"], f"{name}.apart")
        scales = nodes.add("Gather", [f"{EMBEDDING}.scales", ids], f"{name}.scales")
        factors = nodes.add("Unsqueeze", [scales, "embedding.last"], f"{name}.factors")
        return nodes.add("Reshape", [nodes.add("Mul", [apart, factors], f"{name}.floats"), "embedding.rows"], name)

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """One product over the rows that are kept, of the embedding where the head is tied to it."""
        name = EMBEDDING if nodes.source.config.tied_head else "lm_head.weight"
        shape = (sum(end - start for start, end in ranges), nodes.source.config.hidden_size)

        def make() -> Values:
            rows = nodes.source.read(name)
            kept = np.concatenate([rows[start:end] for start, end in ranges])
            return quantize(kept, self._block(shape[1]), self.bits)

        self._store(nodes, "lm_head.weight", shape, make)
        return [self._product(nodes, x, "lm_head.weight")]

    def _store(self, nodes: Nodes, name: str, shape: tuple[int, int], make: Callable[[], Values]) -> None:
        """Reserve `name` [K,N] and `name.scales` [K/block,N] or [N] for what `make` returns of a matrix [N,K]."""
        rows, columns = shape
        factors = (rows,) if self.block == PER_CHANNEL else (columns // self.block, rows)

        def load() -> list[np.ndarray]:
            packed, scales = make()
            values = unpack(packed, self.bits).reshape(rows, -1)[:, :columns]
            return [_signed(values.T, self.bits), np.ascontiguousarray(scales.T).reshape(factors)]

        kind = (np.int8, (columns, rows)) if self.bits == 8 else (np.uint8, (columns * rows // 2,))
        nodes.file.add({name: kind, f"{name}.scales": (np.float32, factors)}, load)
        if self.bits == 4:
            nodes.file.retype(name, TensorProto.INT4, (columns, rows))

    def _block(self, columns: int) -> int:
        """Weights that share a scale in rows of `columns`."""
        return columns if self.block == PER_CHANNEL else self.block

    def _product(self, nodes: Nodes, x: str, name: str) -> str:
        """x [..,K] times the quantized matrix `name`."""
        module, inputs = name.removesuffix(".weight"), [name, f"{name}.scales"]
        along: dict[str, Any] = {"axis": 1} if self.block == PER_CHANNEL else {"axis": 0, "block_size": self.block}
        floats = nodes.add("DequantizeLinear", inputs, f"{module}.floats", **along)
        return nodes.add("MatMul", [x, floats], f"{module}.matmul")


def _signed(steps: np.ndarray, bits: int) -> np.ndarray:
    """Steps counted from 0 → around 0: int8 of the same shape, or 4-bit pairs, the first value in the low half."""
    values = (steps.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
    if bits == 8:
        return values
    pairs = values.reshape(-1, 2).astype(np.uint8) & 15
    return pairs[:, 0] | pairs[:, 1] << 4
