"""Ops that make one value of many along an axis, softmax included."""

from collections.abc import Callable

import torch
from torch import Tensor

from sottovoce.export.mil.registry import Ints, always, named, of, op

_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keep),
    "reduce_mean": lambda x, axes, keep: x.float().mean(axes, keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keep),
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keep),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
}


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """`function` under MIL's parameter names; without axes, over all."""

    def run(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        return function(x, list(range(x.dim())) if axes is None else list(axes), keep_dims)

    return run


for _name, _function in _REDUCTIONS.items():
    op(_name)(_reduction(_function))


@op("reduce_prod")
def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The product along `axes`, all where None."""
    for axis in sorted((a % x.dim() for a in (range(x.dim()) if axes is None else axes)), reverse=True):
        x = x.prod(axis, keep_dims)
    return x


@op("reduce_argmax", dtype=named("output_dtype", "int32"))
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = True, output_dtype: str = "int32") -> Tensor:
    """Where the largest value lies along `axis`; the first one, of equals."""
    return x.argmax(axis, keep_dims)


@op("reduce_argmin", dtype=named("output_dtype", "int32"))
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = True, output_dtype: str = "int32") -> Tensor:
    """Where the smallest value lies along `axis`; the first one, of equals."""
    return x.argmin(axis, keep_dims)


@op("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Shares along `axis` that add up to 1."""
    return x.softmax(axis)


@op("cumsum")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sums along `axis`, without the value itself where `exclusive`, from the end where `reverse`."""
    x = x.flip(axis) if reverse else x
    total = x.cumsum(axis)
    total = total - x if exclusive else total
    return total.flip(axis) if reverse else total


@op("argsort", dtype=always("int32"))
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """The order of the values along `axis`; equals keep theirs."""
    return x.argsort(dim=axis, descending=not ascending, stable=True)


@op("topk", dtype=(of("x"), named("output_indices_dtype", "int32")))
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The `k` largest values along `axis` (smallest where `ascending`) and where they lie."""
    values, indices = torch.topk(x, k, axis, largest=not ascending, sorted=sort)
    return (values, indices) if return_indices else (values,)
