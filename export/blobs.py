"""The weight file of a graph: where every initializer lies is settled first, the bytes follow one blob at a time.

Offsets depend on names and shapes alone, so a plan is exact without reading a weight, and the file is the same whenever
the weights are. Two initializers may share bytes (a tied head is rows of the embedding).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import StringStringEntryProto, TensorProto
from onnx.helper import np_dtype_to_tensor_dtype

from sottovoce.errors import OutputError

ALIGNMENT = 64
"""Bytes; a cache line, which is what the engine's kernels like best."""

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Blob:
    """Bytes at `offset`: rows of `dtype`, `shape[0]` of them."""

    offset: int
    dtype: np.dtype
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes, padding left out."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightFile:
    """Initializers in external data, laid out in the order in which they are added."""

    def __init__(self, location: str) -> None:
        """`location` is the file's name, as the graph will look for it beside itself."""
        self.location = location
        self.size = 0
        self.initializers: list[TensorProto] = []
        self._blobs: dict[str, Blob] = {}
        self._declared: dict[str, int] = {}
        self._loads: list[tuple[tuple[str, ...], Callable[[], Arrays]]] = []

    def __contains__(self, name: str) -> bool:
        """Whether room was reserved for `name`."""
        return name in self._blobs

    def add(self, tensors: dict[str, tuple[type[np.generic], Shape]], load: Callable[[], Arrays]) -> None:
        """Reserve room for named tensors that `load` will compute together, in that order."""
        for name, (kind, shape) in tensors.items():
            blob = Blob(-(-self.size // ALIGNMENT) * ALIGNMENT, np.dtype(kind), shape)
            self.size = blob.offset + blob.nbytes
            self._blobs[name] = blob
            self._declare(name, blob, shape)
        self._loads.append((tuple(tensors), load))

    def nbytes(self, names: Iterable[str]) -> int:
        """Bytes of those of `names` that lie in the file, each as often as it is named."""
        return sum(self._declared[name] for name in names if name in self._declared)

    def share(self, name: str, owner: str, rows: tuple[int, int], shape: Shape) -> None:
        """Declare `name` over the half-open range `rows` of `owner`, seen as `shape`; no bytes of its own."""
        whole = self._blobs[owner]
        row = whole.nbytes // whole.shape[0]
        self._declare(name, Blob(whole.offset + rows[0] * row, whole.dtype, shape), shape)

    def retype(self, name: str, element: int, shape: Shape) -> None:
        """Tell the graph that the bytes of `name` hold numbers that numpy has no type for, of `shape`."""
        (tensor,) = [tensor for tensor in self.initializers if tensor.name == name]
        tensor.data_type = element
        tensor.dims[:] = shape

    def write(self, folder: Path) -> None:
        """Compute and write every blob; OutputError where the disk refuses."""
        path = folder / self.location
        try:
            with path.open("wb") as file:
                for names, load in self._loads:
                    for name, array in zip(names, load(), strict=True):
                        blob = self._blobs[name]
                        if array.shape != blob.shape or array.dtype != blob.dtype:
                            raise ValueError(f"{name}: {array.dtype} {array.shape}, expected {blob.dtype} {blob.shape}")
                        file.seek(blob.offset)
                        file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error

    def _declare(self, name: str, blob: Blob, shape: Shape) -> None:
        """An initializer whose bytes are those of `blob`."""
        self._declared[name] = blob.nbytes
        where = {"location": self.location, "offset": str(blob.offset), "length": str(blob.nbytes)}
        self.initializers.append(
            TensorProto(
                name=name,
                dims=shape,
                data_type=np_dtype_to_tensor_dtype(blob.dtype),
                data_location=TensorProto.EXTERNAL,
                external_data=[StringStringEntryProto(key=key, value=value) for key, value in where.items()],
            )
        )
