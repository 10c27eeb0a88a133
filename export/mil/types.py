"""Types of MIL: their names, how many bits they take in a weight file, and what holds them in memory.

Floats are held as float32 that has been rounded to the declared type, integers of less than a byte in a byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sottovoce.errors import PackageError


@dataclass(frozen=True)
class Storage:
    """One type: its number in `MIL.proto`, bits per value on disk, its torch holder, and the numpy type callers use."""

    number: int
    bits: int
    holder: torch.dtype
    array: Any


STORAGE: Final[Mapping[str, Storage]] = {
    "bool": Storage(1, 8, torch.bool, np.bool_),
    "fp16": Storage(10, 16, torch.float32, np.float16),
    "fp32": Storage(11, 32, torch.float32, np.float32),
    "int8": Storage(21, 8, torch.int8, np.int8),
    "int16": Storage(22, 16, torch.int16, np.int16),
    "int32": Storage(23, 32, torch.int32, np.int32),
    "int64": Storage(24, 64, torch.int64, np.int64),
    "int4": Storage(25, 4, torch.int8, np.int8),
    "uint8": Storage(31, 8, torch.uint8, np.uint8),
    "uint16": Storage(32, 16, torch.int32, np.uint16),
    "uint32": Storage(33, 32, torch.int64, np.uint32),
    "uint4": Storage(35, 4, torch.uint8, np.uint8),
    "uint2": Storage(36, 2, torch.uint8, np.uint8),
    "uint1": Storage(37, 1, torch.uint8, np.uint8),
    "uint6": Storage(38, 6, torch.uint8, np.uint8),
    "uint3": Storage(39, 3, torch.uint8, np.uint8),
}
"""Type name → how it is kept. Not here: 64-bit and 8-bit floats, bfloat16 and unsigned 64 bits, which no program of
ours holds."""

_NAMES: Final = {2: "string", **{storage.number: name for name, storage in STORAGE.items()}}

FLOATS: Final = ("fp16", "fp32")
"""Types that an op may not mix."""


def dtype_name(number: int) -> str:
    """The name of a type by its number in `MIL.proto`; PackageError for one that is not known here."""
    if number not in _NAMES:
        raise PackageError(f"data type {number} of MIL.proto is not supported")
    return _NAMES[number]


def storage(dtype: str) -> Storage:
    """How values of type `dtype` are kept; PackageError for one that holds no numbers here."""
    if dtype not in STORAGE:
        raise PackageError(f"tensors of type {dtype} are not supported")
    return STORAGE[dtype]


@dataclass(frozen=True)
class TensorType:
    """What a program declares of a value; an axis of None may have any length."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """As `fp16[1, 32, 1, 8]`."""
        return f"{self.dtype}[{', '.join('?' if axis is None else str(axis) for axis in self.shape)}]"

    def fits(self, dtype: str, shape: Sequence[int]) -> bool:
        """Whether a value of type `dtype` and `shape` is one of these."""
        if self.dtype != dtype or len(self.shape) != len(shape):
            return False
        return all(want is None or want == found for want, found in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class Typed:
    """A value and its MIL type: a tensor, or text for `string`."""

    value: Tensor | str
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; text has none."""
        return () if isinstance(self.value, str) else tuple(self.value.shape)

    def __str__(self) -> str:
        """As `fp16[1, 32]`."""
        return str(TensorType(self.dtype, self.shape))


def rounded(value: Tensor, dtype: str) -> Tensor:
    """`value` as type `dtype` would keep it, in that type's holder."""
    if dtype == "fp16":
        return value.to(torch.float16).to(torch.float32)
    return value.to(storage(dtype).holder)


def from_array(array: np.ndarray, dtype: str) -> Typed:
    """A numpy array whose numbers are those of type `dtype`, as a value."""
    kept = storage(dtype)
    wide = array.astype(np.int64) if array.dtype in (np.uint16, np.uint32) else array
    # A copy, shape and all: np.ascontiguousarray would make a vector of a scalar.
    return Typed(torch.tensor(wide).to(kept.holder), dtype)


def to_array(typed: Typed) -> np.ndarray:
    """A value as the numpy array that a caller of Core ML would get."""
    assert isinstance(typed.value, Tensor)
    array: np.ndarray = typed.value.numpy().astype(storage(typed.dtype).array)
    return array
