"""Ops that move values without changing them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.errors import PackageError
from sottovoce.export.mil.registry import Ints, always, of, op


@op("reshape")
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """x in another shape, of which one axis may be −1."""
    return x.reshape(tuple(shape))


@op("transpose")
def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Axes in the order `perm`."""
    return x.permute(*perm)


@op("expand_dims")
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """New axes of length 1, counted in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@op("squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without `axes` of length 1, all of them where None."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@op("flatten2d")
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Two axes: those before `axis` and those from it on."""
    axis = axis % x.dim() if axis < 0 else axis
    return x.reshape(int(torch.Size(x.shape[:axis]).numel()), -1)


@op("concat")
def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """`values` one after the other along `axis`; scalars make a vector."""
    if interleave:
        raise PackageError("interleave is not supported")
    return torch.cat([torch.atleast_1d(value) for value in values], axis)


@op("stack", dtype=of("values"))
def stack(values: Sequence[Tensor], axis: int) -> Tensor:
    """`values` along a new axis."""
    return torch.stack(list(values), axis)


@op("split")
def split(
    x: Tensor, num_splits: int | None = None, split_sizes: Ints | None = None, axis: int = 0
) -> tuple[Tensor, ...]:
    """x in `num_splits` equal parts along `axis`, or in parts of `split_sizes`."""
    if split_sizes is None:
        assert num_splits is not None
        return tuple(x.chunk(num_splits, axis))
    return tuple(x.split(list(split_sizes), axis))


@op("tile")
def tile(x: Tensor, reps: Ints) -> Tensor:
    """x repeated along each axis."""
    return x.tile(tuple(reps))


@op("reverse")
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """x back to front along `axes`, all where None."""
    return x.flip(list(range(x.dim())) if axes is None else list(axes))


@op("pad")
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Values before and after each of the last axes, [before, after] of one axis after the other."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    sizes = [size for pair in reversed(pairs) for size in pair]
    if mode == "constant":
        return F.pad(x, sizes, value=constant_val)
    for axis, (before, after) in zip(range(x.dim() - len(pairs), x.dim()), pairs, strict=True):
        x = _mirrored(x, axis, before, after, mode)
    return x


def _mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """One axis continued by its edge (`replicate`) or by what lies inside it (`reflect`)."""
    length = x.shape[axis]
    places = torch.arange(-before, length + after)
    if mode == "replicate":
        places = places.clamp(0, length - 1)
    elif mode == "reflect":
        places = places.abs()
        places = (length - 1) - ((length - 1) - places).abs()
    else:
        raise PackageError(f"mode {mode!r} is not supported")
    return x.index_select(axis, places)


@op("shape", dtype=always("int32"))
def shape(x: Tensor) -> Tensor:
    """Its shape."""
    return torch.tensor(x.shape)


@op("fill", dtype=of("value"))
def fill(shape: Ints, value: Tensor) -> Tensor:
    """`value` in every place of `shape`."""
    return value.expand(tuple(shape)).clone()


@op("range_1d", dtype=of("start"))
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """start, start + step, … below `end`."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@op("band_part")
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """The last two axes, zero but for `lower` diagonals below and `upper` above the main one (−1: all)."""
    row, column = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        kept &= row - column <= lower
    if upper >= 0:
        kept &= column - row <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))
