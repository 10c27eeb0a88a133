"""Ops with weights: products, convolutions, norms, attention."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.errors import PackageError
from sottovoce.export.mil.registry import Ints, of, op

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


@op("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, weight [out, in]."""
    return F.linear(x, weight, bias)


@op("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """The product of the last two axes, each turned first where asked for."""
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


@op("einsum", dtype=of("values"))
def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """Einstein's sum."""
    return torch.einsum(equation, *values)


@op("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """x [N, C, …] under weight [out, C / groups, …]."""
    axes = x.dim() - 2
    steps, gaps = list(strides or [1] * axes), list(dilations or [1] * axes)
    reach = [(k - 1) * gap + 1 for k, gap in zip(weight.shape[2:], gaps, strict=True)]
    sizes = _pads(pad_type, pad, x.shape[2:], reach, steps)
    x = F.pad(x, [size for pair in reversed(sizes) for size in pair])
    return _CONVOLUTIONS[x.dim()](x, weight, bias, steps, 0, gaps, groups)


def _pads(
    kind: str, pad: Ints | None, sizes: Sequence[int], reach: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int]]:
    """What to add before and after each axis; `same` keeps ⌈size / step⌉ results."""
    if kind == "valid":
        return [(0, 0) for _ in sizes]
    if kind == "custom":
        flat = pad or [0] * (2 * len(sizes))
        return [(flat[2 * i], flat[2 * i + 1]) for i in range(len(sizes))]
    if kind not in ("same", "same_lower"):
        raise PackageError(f"pad_type {kind!r} is not supported")
    pairs = []
    for size, wide, step in zip(sizes, reach, steps, strict=True):
        total = max((math.ceil(size / step) - 1) * step + wide - size, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if kind == "same" else (more, less))
    return pairs


@op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """The convolution that x [N, C, …] came from, weight [C, out / groups, …]; `pad` is cut off the result."""
    if pad_type not in ("valid", "custom"):
        raise PackageError(f"pad_type {pad_type!r} is not supported")
    axes = x.dim() - 2
    steps, gaps = list(strides or [1] * axes), list(dilations or [1] * axes)
    full = _TRANSPOSED[x.dim()](x, weight, bias, steps, 0, 0, groups, gaps)
    flat = list(pad or [0] * (2 * axes)) if pad_type == "custom" else [0] * (2 * axes)
    for axis in range(axes):
        before, after = flat[2 * axis], flat[2 * axis + 1]
        # What an output shape asks for beyond the sum of the parts lies after it, and has no part but the bias.
        length = output_shape[axis + 2] if output_shape else full.shape[axis + 2] - before - after
        if before + length > full.shape[axis + 2]:
            raise PackageError(f"output_shape {list(output_shape or ())} reaches past the result")
        full = full.narrow(axis + 2, before, length)
    return full


@op("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """(x − mean) / √(variance + ε) over `axes`, · γ + β (which have the shape of those axes)."""
    over = sorted(a % x.dim() for a in (range(x.dim()) if axes is None else axes))
    centred = x - x.mean(over, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(over, keepdim=True) + epsilon)
    shape = [x.shape[axis] if axis in over else 1 for axis in range(x.dim())]
    normal = normal * gamma.reshape(shape) if gamma is not None else normal
    return normal + beta.reshape(shape) if beta is not None else normal


@op("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """(x − mean) / √(variance + ε) · γ + β by channel, axis 1."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@op("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each item normalised over its own places, · γ + β by channel."""
    return F.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


@op("l2_norm")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / √(Σx² + ε) over the last three axes."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(query · keyᵀ / √D + mask) · value over the last two axes; a bool mask shows where it is true."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask)
