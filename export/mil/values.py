"""Constants of a program: values that stand in the model file, and values that lie in a weight file."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sottovoce.errors import PackageError
from sottovoce.export.mil.blobs import WeightFile, unpack
from sottovoce.export.mil.types import Typed, dtype_name, from_array, storage

_FIELDS = {"floats": np.float32, "ints": np.int32, "bools": np.bool_, "longInts": np.int64}


@dataclass(frozen=True)
class Stored:
    """A constant in a weight file, not read yet."""

    file: WeightFile
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> Typed:
        """Its value; PackageError where the file holds another."""
        return from_array(self.file.read(self.offset, self.dtype, self.shape), self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return -(-math.prod(self.shape) * storage(self.dtype).bits // 8)


class Reader:
    """Reads the `Value` messages of one model."""

    def __init__(self, file: Callable[[str], WeightFile]) -> None:
        """`file` opens a weight file by the name that a program gives it."""
        self._file = file

    def read(self, value: Any) -> "Typed | Stored":
        """The constant `value` (a `MIL.proto` Value); PackageError for what is no tensor or text."""
        kind = value.type.WhichOneof("type")
        if kind != "tensorType":
            raise PackageError(f"constants of kind {kind} are not supported, tensors are")
        dtype = dtype_name(value.type.tensorType.dataType)
        shape = tuple(item.constant.size for item in value.type.tensorType.dimensions)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            return Stored(self._file(blob.fileName), blob.offset, dtype, shape)
        return _immediate(value.immediateValue.tensor, dtype, shape)


def _immediate(tensor: Any, dtype: str, shape: tuple[int, ...]) -> Typed:
    """A constant that stands in the model file."""
    field = tensor.WhichOneof("value")
    if dtype == "string":
        return Typed(str(tensor.strings.values[0]) if field == "strings" and tensor.strings.values else "", dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if field == "bytes":
        array = unpack(np.frombuffer(tensor.bytes.values, np.uint8), dtype, count)
    elif field in _FIELDS:
        array = np.array(getattr(tensor, field).values, _FIELDS[field])
    else:
        array = np.zeros(0, np.float32)
    if array.size != count:
        raise PackageError(f"a constant {dtype}{list(shape)} has {array.size} values; copy the package again")
    return from_array(array.reshape(shape), dtype)
