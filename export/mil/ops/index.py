"""Ops that take values from places, or put them there."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sottovoce.errors import PackageError
from sottovoce.export.mil.registry import Bools, Ints, of, op


def _places(
    shape: Sequence[int], begin: Ints, end: Ints, stride: Ints | None, begin_mask: Bools | None, end_mask: Bools | None
) -> list[range]:
    """Indices along each axis; a mask frees that end of its axis."""
    places = []
    for axis, length in enumerate(shape):
        step = stride[axis] if stride else 1
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        last = None if end_mask and end_mask[axis] else end[axis]
        places.append(range(*slice(first, last, step).indices(length)))
    return places


def _squeezed(places: list[range], begin: Ints, shape: Sequence[int], squeeze_mask: Bools | None) -> list[int]:
    """The axes that a squeeze mask drops; there the place `begin` alone is meant."""
    axes = [axis for axis, drop in enumerate(squeeze_mask or ()) if drop]
    for axis in axes:
        places[axis] = range(begin[axis] % shape[axis], begin[axis] % shape[axis] + 1)
    return axes


@op("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """x from `begin` to before `end` along each axis, as Python slices."""
    places = _places(x.shape, begin, end, stride, begin_mask, end_mask)
    axes = _squeezed(places, begin, x.shape, squeeze_mask)
    for axis, place in enumerate(places):
        if len(place) != x.shape[axis] or place.step != 1:
            x = x.index_select(axis, torch.tensor(place, dtype=torch.int64))
    return x.squeeze(tuple(axes)) if axes else x


@op("slice_by_size")
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """`size` values from `begin` along each axis; −1 for all that follow."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first %= x.shape[axis]
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@op("slice_update")
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """x with `update` in the place that `slice_by_index` would read."""
    places = _places(x.shape, begin, end, stride, begin_mask, end_mask)
    for axis in _squeezed(places, begin, x.shape, squeeze_mask):
        update = update.unsqueeze(axis)
    grid = torch.meshgrid(*(torch.tensor(place, dtype=torch.int64) for place in places), indexing="ij")
    x = x.clone()
    x[grid] = update
    return x


@op("gather")
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """The slices of x at `indices` along `axis`; the first `batch_dims` axes go side by side."""
    if batch_dims:
        pairs = zip(x, indices, strict=True)
        return torch.stack([gather(a, b, axis % x.dim() - 1, batch_dims - 1) for a, b in pairs])
    axis %= x.dim()
    flat = _wrapped(indices, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _wrapped(indices: Tensor, length: int) -> Tensor:
    """Indices with negative ones counted from the end; PackageError outside the axis."""
    indices = indices.long()
    indices = torch.where(indices < 0, indices + length, indices)
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < length:
        raise PackageError(f"index {int(indices.max())} is outside an axis of {length}")
    return indices


@op("gather_along_axis")
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Values of x at `indices` along `axis`, the other axes as they are."""
    return x.gather(axis, _wrapped(indices, x.shape[axis]))


@op("gather_nd")
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """x at the places that the last axis of `indices` names; the first `batch_dims` axes go side by side."""
    if batch_dims:
        return torch.stack([gather_nd(a, b, batch_dims - 1) for a, b in zip(x, indices, strict=True)])
    return x[_coordinates(x, indices)]


def _coordinates(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """One tensor of indices per leading axis of x, from places [..., K]."""
    return tuple(_wrapped(indices[..., axis], x.shape[axis]) for axis in range(indices.shape[-1]))


_MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "mul": torch.mul,
    "sub": torch.sub,
    "update": lambda old, new: new,
}


def _mode(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """How a value that is there meets one that is put there."""
    if name not in _MODES:
        raise PackageError(f"mode {name!r} is not supported")
    return _MODES[name]


@op("scatter", dtype=of("data"))
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """`data` with slice i of `updates` put to `indices[i]` along `axis`, one after the other."""
    data, axis = data.clone(), axis % data.dim()
    meet = _mode(mode)
    for i, place in enumerate(_wrapped(indices, data.shape[axis]).tolist()):
        old = data.select(axis, place)
        old.copy_(meet(old, updates.select(axis, i)))
    return data


@op("scatter_along_axis", dtype=of("data"))
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """`data` with `updates` put to `indices` along `axis`, the other axes as they are."""
    places = _wrapped(indices, data.shape[axis])
    data, axis, meet = data.clone(), axis % data.dim(), _mode(mode)
    for i in range(places.shape[axis]):
        chosen = places.narrow(axis, i, 1)
        data.scatter_(axis, chosen, meet(data.gather(axis, chosen), updates.narrow(axis, i, 1)))
    return data


@op("scatter_nd", dtype=of("data"))
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """`data` with `updates` put to the places that the last axis of `indices` names, one after the other."""
    data, meet = data.clone(), _mode(mode)
    slices = updates.reshape(-1, *updates.shape[indices.dim() - 1 :])
    for place, new in zip(indices.reshape(-1, indices.shape[-1]), slices, strict=True):
        where = tuple(_wrapped(axis, data.shape[i]) for i, axis in enumerate(place))
        data[where] = meet(data[where], new)
    return data


@op("one_hot", dtype=of("on_value"))
def one_hot(indices: Tensor, one_hot_vector_size: int, on_value: Tensor, off_value: Tensor, axis: int = -1) -> Tensor:
    """A new axis with `on_value` at each index and `off_value` elsewhere."""
    found = torch.arange(one_hot_vector_size) == indices.unsqueeze(-1)
    return torch.where(found, on_value, off_value).movedim(-1, axis)
