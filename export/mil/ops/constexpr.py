"""Constants that are kept in another form than they are used in: quantized, palettized, sparse."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sottovoce.errors import PackageError
from sottovoce.export.mil.registry import Ints, named, of, op


def _spread(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """One value per block → one per place of `shape`; a block's size is what divides the two shapes.

    Axes that have one block stay as they are: arithmetic broadcasts them.
    """
    for axis, (count, length) in enumerate(zip(blocks.shape, shape, strict=True)):
        if count > 1 and count != length:
            if length % count:
                raise PackageError(f"{count} blocks do not divide an axis of {length}")
            blocks = blocks.repeat_interleave(length // count, axis)
    return blocks


@op("constexpr_blockwise_shift_scale", dtype=of("scale"), mixed=True)
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale · (data − offset), a scale and an offset for each block of data."""
    values = data.float()
    if offset is not None:
        values = values - _spread(offset.float(), data.shape)
    return values * _spread(scale, data.shape)


@op("constexpr_affine_dequantize", dtype=of("scale"), mixed=True)
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """scale · (data − zero point), of iOS 16: one for all, or one for each place along `axis`."""
    shape = [1] * quantized_data.dim()
    shape[axis] = -1
    zero, step = (part.float().reshape(shape) if part.dim() else part.float() for part in (zero_point, scale))
    return step * (quantized_data.float() - zero)


@op("constexpr_cast", dtype=named("output_dtype", "fp32"), mixed=True)
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """The constant as another float type, of iOS 16."""
    return source_val


@op("constexpr_lut_to_dense", dtype=of("lut"), mixed=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """A table's entries at `indices`.

    From iOS 18 on, lut [blocks of each axis…, entries, vector]: a table per block, whose entries may be vectors laid
    along `vector_axis`. With `shape`, of iOS 16: one table [entries], indices packed as bits, the first in the lowest.
    """
    if shape is not None:
        return lut[_packed(indices, round(math.log2(len(lut))), math.prod(shape)).long()].reshape(tuple(shape))
    dims = indices.dim()
    table = _block_numbers(lut.shape[:dims], indices.shape)
    entries = lut.reshape(-1, lut.shape[-2], lut.shape[-1])
    values = entries[table, indices.long()]
    if lut.shape[-1] == 1:
        return values.squeeze(-1)
    if vector_axis is None:
        raise PackageError("a table of vectors needs vector_axis")
    axis = vector_axis % dims
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _packed(data: Tensor, width: int, count: int) -> Tensor:
    """`count` numbers of `width` bits from bytes, low bits first."""
    bits = (data[:, None].int() >> torch.arange(8)) & 1
    bits = bits.reshape(-1)[: count * width].reshape(count, width)
    return (bits << torch.arange(width)).sum(-1)


def _block_numbers(blocks: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The number of the block, counted row by row, that each place of `shape` lies in; broadcastable to it."""
    number = torch.zeros([1] * len(shape), dtype=torch.int64)
    for axis, (count, length) in enumerate(zip(blocks, shape, strict=True)):
        if length % count:
            raise PackageError(f"{count} tables do not divide an axis of {length}")
        place = torch.arange(length) // (length // count) if count > 1 else torch.zeros(1, dtype=torch.int64)
        number = number * count + place.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return number


@op("constexpr_sparse_to_dense", dtype=of("nonzero_data"), mixed=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """The values of `nonzero_data` in the places that `mask` shows, zeros elsewhere; with `shape`, of iOS 16."""
    if shape is not None:
        mask = _packed(mask, 1, math.prod(shape)).reshape(tuple(shape))
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask.bool()] = nonzero_data
    return dense
