"""How a graph holds matrices: float32 or quantized; each format emits its own nodes and reserves its own bytes.

Knows nothing about the decoder's shape: `graph.py` asks for linear layers, an embedding and a head by their HF names.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from onnx import NodeProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from sottovoce.export.blobs import WeightFile
from sottovoce.export.quantize import block_size_for, check_block, quantize, quantized_shapes
from sottovoce.export.weight_recipe import WeightRecipe, recipe_of
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import WeightFormat, WeightSpec

CONTRIB = "com.microsoft"
EMBEDDING = "model.embed_tokens.weight"
Ranges = tuple[tuple[int, int], ...]

INT4_BLOCK = 32
"""Block of 4-bit weights where none is asked for."""


class Source:
    """Weights by HF name, float32 and one at a time, of an opened checkpoint or of a decoder in memory."""

    def __init__(self, source: Checkpoint | Decoder) -> None:
        """Reads no weight; shapes come from the config."""
        self.config: DecoderConfig = source.config
        self._tensor = source.read if isinstance(source, Checkpoint) else source.state_dict().__getitem__
        with torch.device("meta"):
            self.shapes = {name: tuple(tensor.shape) for name, tensor in Decoder(self.config).state_dict().items()}

    def read(self, *names: str) -> np.ndarray:
        """The named tensors stacked along their first axis, float32."""
        arrays = [self._tensor(name).detach().float().numpy(force=True) for name in names]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def matrix_shape(self, *names: str) -> tuple[int, int]:
        """Shape [N, K] of matrices stacked along their rows."""
        return sum(self.shapes[name][0] for name in names), self.shapes[names[0]][1]


class Nodes:
    """The graph under construction: nodes in order, and the weight file they point into."""

    def __init__(self, source: Source, file: WeightFile) -> None:
        """Empty."""
        self.source, self.file = source, file
        self.nodes: list[NodeProto] = []

    def add(self, op: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes: Any) -> str:
        """Append a node named after its first output; returns that output."""
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def vector(self, *names: str) -> str:
        """Initializer of the named vectors end to end, float32; named after the last."""
        size = sum(self.source.shapes[name][0] for name in names)
        self.file.add({names[-1]: (np.float32, (size,))}, lambda: [self.source.read(*names)])
        return names[-1]

    def table(self, name: str, array: np.ndarray) -> str:
        """Initializer with a computed value."""
        self.file.add({name: (array.dtype.type, array.shape)}, lambda: [array])
        return name

    def integers(self, name: str, value: int | list[int]) -> str:
        """Index or shape, kept in the graph itself: shape inference reads no external data."""
        self.file.initializers.append(from_array(np.array(value, np.int64), name))
        return name

    def bias(self, modules: tuple[str, ...]) -> str:
        """Initializer of the stacked biases of linear modules, empty where they have none."""
        names = [f"{module}.bias" for module in modules]
        return self.vector(*names) if names[0] in self.source.shapes else ""


class Weights(Protocol):
    """One weight format."""

    spec: WeightSpec
    min_onnxruntime: str

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """x [.., K] through linear modules stacked along their rows → [.., N], named after the last module."""

    def embedding(self, nodes: Nodes, ids: str, name: str = "model.embed_tokens") -> str:
        """Rows of the embedding for ids [1,T] → [1,T,d], called `name`; asked for again, the weights are the same."""

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """Logits [1,n] from x [1,d], in pieces whose rows together are `ranges`; after `embedding`."""


class FloatWeights:
    """float32 matrices; the head reads its rows out of a tied embedding."""

    spec = WeightSpec("fp32", "fp32", "fp32", None)
    min_onnxruntime = "1.22"

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """MatMul over the transposed matrix, then Add."""
        names = [f"{module}.weight" for module in modules]
        rows, columns = nodes.source.matrix_shape(*names)
        nodes.file.add({names[-1]: (np.float32, (columns, rows))}, lambda: [nodes.source.read(*names).T])
        out = nodes.add("MatMul", [x, names[-1]], f"{modules[-1]}.matmul")
        bias = nodes.bias(modules)
        return nodes.add("Add", [out, bias], f"{modules[-1]}.out") if bias else out

    def embedding(self, nodes: Nodes, ids: str, name: str = "model.embed_tokens") -> str:
        """Gather."""
        shape = nodes.source.shapes[EMBEDDING]
        if EMBEDDING not in nodes.file:
            nodes.file.add({EMBEDDING: (np.float32, shape)}, lambda: [nodes.source.read(EMBEDDING)])
        return nodes.add("Gather", [EMBEDDING, ids], name)

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """Gemm over untransposed rows, one per range where they are the embedding's own bytes."""
        width = nodes.source.config.hidden_size
        if nodes.source.config.tied_head:
            for start, end in ranges:
                nodes.file.share(f"lm_head.{start}.weight", EMBEDDING, (start, end), (end - start, width))
            names = [f"lm_head.{start}.weight" for start, _ in ranges]
        else:
            shape = (sum(end - start for start, end in ranges), width)
            nodes.file.add({"lm_head.weight": (np.float32, shape)}, lambda: [_rows(nodes.source, ranges)])
            names = ["lm_head.weight"]
        return [nodes.add("Gemm", [x, name], name.removesuffix("weight") + "out", transB=1) for name in names]


class QuantizedWeights:
    """Block-quantized matrices, embedding and head too; norms, biases and rotary tables stay float32."""

    def __init__(self, config: DecoderConfig, recipe: WeightRecipe) -> None:
        """Raises OptionError where no block size divides the hidden size, or the one asked for does not."""
        self.bits = {"int8": 8, "int4": 4}[recipe.format]
        self.block = (
            default_block(config, recipe) if recipe.block is None else check_block(recipe.block, config.hidden_size)
        )
        self.spec = WeightSpec(recipe.format, recipe.format, recipe.format, self.block)
        self.min_onnxruntime = "1.23"

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """MatMulNBits with the bias inside."""
        names = [f"{module}.weight" for module in modules]
        shape = nodes.source.matrix_shape(*names)
        self._store(nodes, names[-1], shape, lambda: nodes.source.read(*names))
        return self._matmul(nodes, x, names[-1], shape, nodes.bias(modules))

    def embedding(self, nodes: Nodes, ids: str, name: str = "model.embed_tokens") -> str:
        """GatherBlockQuantized, over bytes laid out as MatMulNBits reads them."""
        rows, width = nodes.source.shapes[EMBEDDING]
        if EMBEDDING not in nodes.file:
            self._store(nodes, EMBEDDING, (rows, width), lambda: nodes.source.read(EMBEDDING), flat=True)
        inputs = [EMBEDDING, ids, f"{EMBEDDING}.scales"]
        attributes = {"bits": self.bits, "block_size": self.block, "quantize_axis": 1, "gather_axis": 0}
        return nodes.add("GatherBlockQuantized", inputs, name, CONTRIB, **attributes)

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """MatMulNBits, one per range where they are the embedding's own bytes."""
        width = nodes.source.config.hidden_size
        if not nodes.source.config.tied_head:
            shape = (sum(end - start for start, end in ranges), width)
            self._store(nodes, "lm_head.weight", shape, lambda: _rows(nodes.source, ranges))
            return [self._matmul(nodes, x, "lm_head.weight", shape, "")]
        outputs = []
        for start, end in ranges:
            name, shape = f"lm_head.{start}.weight", (end - start, width)
            packed, scales = quantized_shapes(*shape, self.block, self.bits)
            nodes.file.share(name, EMBEDDING, (start, end), packed)
            nodes.file.share(f"{name}.scales", f"{EMBEDDING}.scales", (start, end), scales)
            outputs.append(self._matmul(nodes, x, name, shape, ""))
        return outputs

    def _store(
        self, nodes: Nodes, name: str, shape: tuple[int, int], read: Callable[[], np.ndarray], flat: bool = False
    ) -> None:
        """Reserve `name` and `name.scales` for the matrix [N, K] that `read` returns; `flat` joins a row's blocks."""
        packed, scales = quantized_shapes(*shape, self.block, self.bits)
        packed = (packed[0], packed[1] * packed[2]) if flat else packed

        def load() -> list[np.ndarray]:
            values, factors = quantize(read(), self.block, self.bits)
            return [values.reshape(packed), factors]

        nodes.file.add({name: (np.uint8, packed), f"{name}.scales": (np.float32, scales)}, load)

    def _matmul(self, nodes: Nodes, x: str, name: str, shape: tuple[int, int], bias: str) -> str:
        """x [.., K] times the quantized matrix `name` [N, K], in integers (`accuracy_level` 4)."""
        inputs = [x, name, f"{name}.scales", "", "", bias] if bias else [x, name, f"{name}.scales"]
        sizes = {"N": shape[0], "K": shape[1], "bits": self.bits, "block_size": self.block, "accuracy_level": 4}
        return nodes.add("MatMulNBits", inputs, name.removesuffix("weight") + "out", CONTRIB, **sizes)


def _rows(source: Source, ranges: Ranges) -> np.ndarray:
    """The rows of an untied head that are kept."""
    head = source.read("lm_head.weight")
    return np.concatenate([head[start:end] for start, end in ranges])


def default_block(config: DecoderConfig, recipe: WeightRecipe) -> int:
    """The largest block that divides the hidden size; for 4 bits at most INT4_BLOCK. OptionError where none does."""
    largest = block_size_for(config.hidden_size)
    return min(largest, INT4_BLOCK) if recipe.format == "int4" else largest


def weights_for(weights: WeightFormat | WeightRecipe, config: DecoderConfig) -> Weights:
    """The writer of a format or recipe; OptionError for one that this version cannot write."""
    recipe = recipe_of(weights)
    return FloatWeights() if recipe.format == "fp32" else QuantizedWeights(config, recipe)
