"""The weight file of a package, `weight.bin`, read without Apple's library; values are mapped, not loaded.

Layout (coremltools' MILBlob, `StorageFormat.hpp`), little-endian: a header of 64 bytes (count u32, version u32 = 2),
then per blob 64 bytes of metadata (sentinel u32, type u32, size in bytes u64, offset of the data u64, padding in bits
u64) and, on a multiple of 64, the data. Values of less than a byte lie packed, the first in the lowest bits.
"""

import struct
from pathlib import Path
from typing import Final

import numpy as np

from sottovoce.errors import PackageError
from sottovoce.export.mil.types import storage

SENTINEL: Final = 0xDEADBEEF
VERSION: Final = 2
_METADATA: Final = struct.Struct("<IIQQQ")

BLOB_TYPES: Final = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
"""Type of a blob by its number in the file (another numbering than that of `MIL.proto`)."""


class WeightFile:
    """One mapped weight file."""

    def __init__(self, path: Path) -> None:
        """Map `path`; PackageError where it is missing or of another version."""
        if not path.is_file() or path.stat().st_size < 64:
            raise PackageError(f"{path} is missing or has no header: copy the package again")
        self.path = path
        self._bytes = np.memmap(path, np.uint8, "r")
        version = int(np.frombuffer(self._bytes[4:8], "<u4")[0])
        if version != VERSION:
            raise PackageError(f"{path}: weight files of version {version} are not supported ({VERSION} is)")

    def read(self, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """The blob whose metadata lies at `offset`, as `shape`; PackageError unless it is of type `dtype` and size."""
        if not 0 <= offset <= len(self._bytes) - 64:
            raise PackageError(f"{self.path}: offset {offset} is past its end; copy the package again")
        sentinel, number, size, start, _ = _METADATA.unpack(self._bytes[offset : offset + _METADATA.size].tobytes())
        found = BLOB_TYPES.get(number, f"number {number}")
        kept, count = storage(dtype), int(np.prod(shape, dtype=np.int64))
        if sentinel != SENTINEL or start + size > len(self._bytes):
            raise PackageError(f"{self.path}: no blob at offset {offset}; copy the package again")
        # A bool is kept as a byte of either kind.
        if found != dtype and not (dtype == "bool" and found in ("int8", "uint8")):
            raise PackageError(f"{self.path}: blob at {offset} is of type {found}, the program says {dtype}")
        if size != -(-count * kept.bits // 8):
            raise PackageError(f"{self.path}: blob at {offset} has {size} bytes, {dtype}{list(shape)} has other")
        return unpack(self._bytes[start : start + size], dtype, count).reshape(shape)


def unpack(data: np.ndarray, dtype: str, count: int) -> np.ndarray:
    """Bytes [n] uint8 → the first `count` values of type `dtype`, one per item."""
    kept = storage(dtype)
    if kept.bits >= 8:
        return np.frombuffer(data, np.dtype(kept.array).newbyteorder("<"), count)
    values = _nibbles(data) if kept.bits == 4 else _bits(data, kept.bits)
    values = values[:count]
    if dtype == "int4":
        return np.where(values > 7, values.astype(np.int8) - 16, values).astype(np.int8)
    return values


def _nibbles(data: np.ndarray) -> np.ndarray:
    """Two values a byte, the low one first; apart from `_bits` because weights come by the hundred million."""
    values = np.empty((len(data), 2), np.uint8)
    values[:, 0] = data & 15
    values[:, 1] = data >> 4
    return values.reshape(-1)


def _bits(data: np.ndarray, width: int) -> np.ndarray:
    """Values of `width` bits, low bits first, whether or not they cross bytes."""
    bits: np.ndarray = np.unpackbits(data, bitorder="little")
    bits = bits[: len(bits) // width * width].reshape(-1, width)
    return (bits << np.arange(width, dtype=np.uint8)).sum(-1).astype(np.uint8)
