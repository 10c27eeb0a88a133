"""The graph under construction, where its weights come from, and what it asks of whoever holds its matrices.

Knows nothing about the decoder's shape: `graph.py` asks for linear layers, an embedding and a head by their HF names;
`formats.py` picks the format of each, `matrices.py` knows how a format holds them.
"""

from typing import Any, Protocol

import numpy as np
import torch
from onnx import NodeProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from sottovoce.export.blobs import WeightFile
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import WeightSpec

CONTRIB = "com.microsoft"
EMBEDDING = "model.embed_tokens.weight"
Ranges = tuple[tuple[int, int], ...]


class Source:
    """Weights by HF name, float32 and one at a time, of an opened checkpoint or of a decoder in memory."""

    def __init__(self, source: Checkpoint | Decoder) -> None:
        """Reads no weight; shapes come from the config."""
        self.config: DecoderConfig = source.config
        self._tensor = source.read if isinstance(source, Checkpoint) else source.state_dict().__getitem__
        with torch.device("meta"):
            self.shapes = {name: tuple(tensor.shape) for name, tensor in Decoder(self.config).state_dict().items()}
        self._factors: dict[str, np.float32] = {}

    def read_times(self, factor: float, module: str) -> None:
        """From now on weight and bias of `module` are read times `factor`; an fp16 file rounds what comes of it."""
        self._factors |= {f"{module}.{kind}": np.float32(factor) for kind in ("weight", "bias")}

    def read(self, *names: str) -> np.ndarray:
        """The named tensors stacked along their first axis, float32."""
        arrays = [self._read(name) for name in names]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def _read(self, name: str) -> np.ndarray:
        """One tensor, times its factor where it has one."""
        array: np.ndarray = self._tensor(name).detach().float().numpy(force=True)
        return array * self._factors[name] if name in self._factors else array

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

    def number(self, name: str, value: float) -> str:
        """A scalar, float32, kept in the graph itself."""
        self.file.initializers.append(from_array(np.array(value, np.float32), name))
        return name

    def bias(self, modules: tuple[str, ...]) -> str:
        """Initializer of the stacked biases of linear modules, empty where they have none."""
        names = [f"{module}.bias" for module in modules]
        return self.vector(*names) if names[0] in self.source.shapes else ""


class Weights(Protocol):
    """The matrices of a graph, in whatever formats."""

    spec: WeightSpec
    min_onnxruntime: str

    def linear(self, nodes: Nodes, x: str, *modules: str) -> str:
        """x [.., K] through linear modules stacked along their rows → [.., N], named after the last module."""

    def embedding(self, nodes: Nodes, ids: str, name: str = "model.embed_tokens") -> str:
        """Rows of the embedding for ids [1,T] → [1,T,d], called `name`; asked for again, the weights are the same."""

    def head(self, nodes: Nodes, x: str, ranges: Ranges) -> list[str]:
        """Logits [1,n] from x [1,d], in pieces whose rows together are `ranges`; after `embedding`."""
