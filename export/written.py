"""The rounded matrices that a graph file really holds: read back, made float32 and laid beside the checkpoint's.

Knows the layout of the file from its graph and from the operators' definition alone: nothing of the writer is shared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.helper import tensor_dtype_to_np_dtype
from torch import nn

from sottovoce.export.decoder import DATA
from sottovoce.export.variants import every_node
from sottovoce.export.weights import EMBEDDING
from sottovoce.models.decoder import Decoder

SCALES = ".scales"
_HEAD = "lm_head.weight"
_BACKBONE = "backbone."
"""What a decoder of patches calls the matrices of the decoder inside it by, and the graph does not."""
_ROWS = 4096


class WrittenWeights:
    """Initializers of a graph by name, their bytes mapped from `decoder.onnx.data` beside it."""

    def __init__(self, path: Path) -> None:
        """Reads the graph; the data stays on disk."""
        graph = onnx.load(path, load_external_data=False).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        attributes = {name: {a.name: a.i for a in node.attribute} for node in every_node(graph) for name in node.input}
        self._bits = {name: found["bits"] for name, found in attributes.items() if "bits" in found}
        casts = {node.output[0]: node.input[0] for node in every_node(graph) if node.op_type == "Cast"}
        self._transposed = {casts.get(node.input[1]) for node in every_node(graph) if node.op_type == "MatMul"}
        self._attention = {
            f"{node.name}.": {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            for node in every_node(graph)
            if node.op_type == "GroupQueryAttention"
        }
        self._blocks = {name: found["block_size"] for name, found in attributes.items() if "block_size" in found}
        self._data = np.memmap(path.with_name(DATA), np.uint8, "r")

    def rounded(self) -> list[str]:
        """Names of the matrices that are quantized, or float16."""
        half = [name for name, tensor in self._tensors.items() if tensor.data_type == onnx.TensorProto.FLOAT16]
        return [*(name.removesuffix(SCALES) for name in self._tensors if name.endswith(SCALES)), *half]

    def members(self, name: str) -> list[str]:
        """HF names of the matrices stacked in `name`: queries and keys lie before values where they have no own."""
        query, key = (name.replace(".v_proj.", f".{kind}_proj.") for kind in "qk")
        return [name] if query == name or query in self._tensors else [query, key, name]

    def factor(self, member: str, rows: int) -> float:
        """By what the written matrix `member` of so many `rows` has to be multiplied to be the checkpoint's.

        Queries, or the norm that they go through, were multiplied beforehand where the attention op says that it
        multiplies scores by anything but its default, 1 / √D.
        """
        where, queries, _ = member.partition("q_proj.")
        found = next((a for name, a in self._attention.items() if name.startswith(where)), {}) if queries else {}
        if not found.get("scale") or f"{where}q_norm.weight" in self._tensors:
            return 1.0
        return float(found["scale"]) * float(np.sqrt(rows / found["num_heads"]))

    def scales(self, layers: int) -> list[tuple[float, float]]:
        """The scales of an int8 cache: of keys and of values, layer by layer."""
        names = [[f"model.layers.{layer}.self_attn.{kind}_scale" for kind in "kv"] for layer in range(layers)]
        return [(self._array(key).item(), self._array(value).item()) for key, value in names]

    def rows(self, name: str, start: int, stop: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows start..stop−1 of matrix `name` [N, K] as float32, and the scale of each element, both [n, K].

        (value − 2^(bits−1)) · scale of the block, the first value in a byte's lowest bits; the last block is padded.
        The scale of a float16 number is the gap to the next one.
        """
        if name + SCALES not in self._tensors:
            whole = self._array(name).T if name in self._transposed else self._array(name)
            return whole[start:stop].astype(np.float32), np.spacing(np.abs(whole[start:stop])).astype(np.float32)
        if name not in self._bits:
            return self._signed_rows(name, start, stop, columns)
        scales, bits = self._array(name + SCALES)[start:stop], self._bits[name]
        packed = self._array(name)[start:stop].reshape(*scales.shape, -1, 1)
        steps = (packed >> np.arange(0, 8, bits, dtype=np.uint8)) & (2**bits - 1)
        values = (steps.reshape(*scales.shape, -1).astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
        spread = np.broadcast_to(scales[..., None], values.shape)
        flat = stop - start, -1
        return values.reshape(flat)[:, :columns], spread.reshape(flat)[:, :columns]

    def _signed_rows(self, name: str, start: int, stop: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """As `rows` of a matrix in standard operators: value · scale; all but the embedding lie on their side."""
        steps, scales = self._steps(name), self._array(name + SCALES)
        scales = scales.reshape(-1, steps.shape[-1]) if name != EMBEDDING else scales  # [N]: one for each channel
        steps, scales = (x[start:stop] if name == EMBEDDING else x[:, start:stop].T for x in (steps, scales))
        block = self._blocks.get(name, columns // scales.shape[1])
        spread = np.repeat(scales, block, axis=1)[:, :columns]
        return steps.astype(np.float32) * spread, spread

    def _steps(self, name: str) -> np.ndarray:
        """Signed values of a matrix; of 4 bits, the first one lies in a byte's lowest."""
        tensor = self._tensors[name]
        if tensor.data_type != onnx.TensorProto.INT4:
            return self._array(name)
        halves = self._raw(tensor)[:, None] >> np.array([0, 4], np.uint8) & 15
        return ((halves.astype(np.int8) ^ 8) - 8).reshape(tuple(tensor.dims))

    def _array(self, name: str) -> np.ndarray:
        """One initializer, mapped."""
        tensor = self._tensors[name]
        raw = self._raw(tensor)
        return raw.view(tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tuple(tensor.dims))

    def _raw(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The bytes of an initializer, mapped."""
        where = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(where["offset"]), int(where["length"])
        return self._data[offset : offset + length]


def with_head_of(graph: Path, decoder: Decoder) -> Decoder:
    """`decoder`, its head a matrix of its own where it is tied and `graph` has bytes for both."""
    if not decoder.config.tied_head or _HEAD not in WrittenWeights(graph).rounded():
        return decoder
    with torch.device("meta"):
        apart = Decoder(replace(decoder.config, tied_head=False))
    apart.load_state_dict({**decoder.state_dict(), _HEAD: decoder.head.detach().clone()}, assign=True)
    return apart.eval()


@torch.no_grad()
def load_written(decoder: nn.Module, graph: Path, head_ids: Sequence[int]) -> float:
    """Put the matrices written for `graph` in the place of `decoder`'s own; their largest error.

    The error is |written − own| in units of the block's scale. Rows of an untied head that were not kept stay.
    """
    weights, errors = WrittenWeights(graph), [0.0]
    parameters = {name.removeprefix(_BACKBONE): parameter for name, parameter in decoder.named_parameters()}
    for name in weights.rounded():
        if name in parameters:  # pieces of a tied head are rows of the embedding once more
            start = 0
            for member in weights.members(name):
                kept = np.array(head_ids) if member == _HEAD else np.arange(len(parameters[member]))
                factor = weights.factor(member, len(parameters[member]))
                errors += _replace(parameters[member], kept, weights, name, start, factor)
                start += len(kept)
    return float(np.max(errors))  # NaN stays NaN


def _replace(
    parameter: torch.Tensor, kept: np.ndarray, weights: WrittenWeights, name: str, start: int, factor: float
) -> Iterator[float]:
    """Overwrite rows `kept` of a parameter with those of `name` from `start` on, times `factor`.

    Yields errors in units of scale.
    """
    for first in range(0, len(kept), _ROWS):
        ids = torch.from_numpy(kept[first : first + _ROWS])
        row = start + first
        values, scales = (factor * x for x in weights.rows(name, row, row + len(ids), parameter.shape[1]))
        difference = np.abs(parameter[ids].numpy() - values)
        yield float((difference / np.maximum(np.abs(scales), np.finfo(np.float32).tiny)).max())
        parameter[ids] = torch.from_numpy(np.ascontiguousarray(values))
