"""For each op of the interpreter: what it is given, and what torch makes of it where coremltools itself cannot say."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    """Normal numbers, float32."""
    return RANDOM.standard_normal(shape).astype(np.float32)


def between(low: float, high: float, *shape: int) -> np.ndarray:
    """Even numbers between two bounds, float32."""
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    """Whole numbers below `high`, int32."""
    return RANDOM.integers(low, high, shape).astype(np.int32)


@dataclass(frozen=True)
class Case:
    """One op with `tensors` as inputs of the program and `params` as constants; `torch` computes it from tensors.

    Without `torch`, coremltools' `value_inference` must know the answer; it is not asked where `infer` is False,
    because it is known to be wrong there.
    """

    type: str
    tensors: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    torch: Callable[..., Any] | None = None
    infer: bool = True


def unary(name: str, x: np.ndarray, **params: Any) -> Case:
    """An op of one tensor that coremltools computes itself."""
    return Case(name, {"x": x}, params)


def binary(name: str, x: np.ndarray, y: np.ndarray) -> Case:
    """An op of two."""
    return Case(name, {"x": x, "y": y})


X = normal(2, 3, 4)
POSITIVE = between(0.1, 2, 2, 3, 4)
IMAGE = normal(1, 4, 6, 5)
BOOLS = RANDOM.random((2, 3, 4)) > 0.5

ELEMENTWISE = [
    *(binary(name, X, normal(3, 1)) for name in ("add", "sub", "mul", "maximum", "minimum")),
    *(binary(name, X, between(0.5, 2, 2, 3, 4)) for name in ("real_div", "floor_div", "mod")),
    *(binary(name, integers(-9, 9, 2, 3), integers(1, 5, 2, 3)) for name in ("floor_div", "mod", "add")),
    binary("pow", POSITIVE, X),
    *(
        binary(name, integers(0, 3, 4, 4), integers(0, 3, 4, 4))
        for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
    ),
    *(binary(name, BOOLS, ~BOOLS | (X > 0)) for name in ("logical_and", "logical_or", "logical_xor")),
    unary("logical_not", BOOLS),
    *(
        unary(name, X)
        for name in ("abs", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "identity", "relu", "relu6")
    ),
    *(unary(name, X) for name in ("round", "sigmoid", "sign", "sin", "sinh", "softplus", "softsign", "square")),
    *(unary(name, X) for name in ("tan", "tanh", "atan")),
    *(unary(name, between(-0.9, 0.9, 2, 3)) for name in ("acos", "asin", "atanh")),
    *(unary(name, POSITIVE) for name in ("sqrt", "rsqrt", "log", "inverse")),
    unary("rsqrt", POSITIVE, epsilon=0.1),
    unary("log", POSITIVE, epsilon=0.1),
    unary("inverse", POSITIVE, epsilon=0.1),
    Case("silu", {"x": X}, torch=lambda x: F.silu(x)),
    unary("cast", 3 * X, dtype="int32"),
    unary("clip", X, alpha=-0.5, beta=0.5),
    unary("threshold", X, alpha=0.25),
    unary("elu", X, alpha=0.7),
    unary("leaky_relu", X, alpha=0.1),
    unary("linear_activation", X, alpha=2.0, beta=-1.0),
    unary("clamped_relu", X, alpha=0.1, beta=0.8),
    unary("thresholded_relu", X, alpha=0.5),
    unary("sigmoid_hard", X, alpha=0.3, beta=0.4),
    unary("scaled_tanh", X, alpha=1.5, beta=0.5),
    Case("prelu", {"x": IMAGE}, {"alpha": between(0, 1, 4)}),
    *(unary("gelu", X, mode=mode) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    Case("select", {"cond": BOOLS, "a": X, "b": -POSITIVE}),
]

REDUCTIONS = [
    *(
        unary(f"reduce_{name}", POSITIVE, axes=[-1, 0], keep_dims=keep)
        for name in ("l1_norm", "l2_norm", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square")
        for keep in (True, False)
    ),
    *(unary(f"reduce_{name}", X, axis=1, keep_dims=False) for name in ("argmax", "argmin")),
    unary("softmax", X, axis=1),
    unary("cumsum", X, axis=1),
    unary("cumsum", X, axis=1, reverse=True),
    Case("cumsum", {"x": X}, {"axis": 1, "exclusive": True}, torch=lambda x: x.cumsum(1) - x),
    Case(
        "cumsum",
        {"x": X},
        {"axis": 1, "exclusive": True, "reverse": True},
        torch=lambda x: x.flip(1).cumsum(1).flip(1) - x,
    ),
    unary("argsort", X, axis=1, ascending=True),
    unary("argsort", X, axis=-1, ascending=False),
    unary("topk", X, k=2, axis=1, ascending=False),
    unary("topk", X, k=2, axis=1, ascending=True),
]

SHAPES = [
    unary("reshape", X, shape=[4, -1]),
    unary("transpose", X, perm=[2, 0, 1]),
    unary("expand_dims", normal(3, 4), axes=[0, -1]),
    unary("squeeze", normal(1, 3, 1, 2), axes=[0, 2]),
    unary("squeeze", normal(1, 3, 1, 2)),
    unary("flatten2d", X, axis=2),
    Case("concat", {"values": [X, normal(2, 1, 4)]}, {"axis": 1}),
    Case("stack", {"values": [X, -X]}, {"axis": 1}),
    unary("split", X, num_splits=2, axis=2),
    unary("split", X, split_sizes=[1, 2], axis=1),
    unary("tile", X, reps=[1, 2, 3]),
    unary("reverse", X, axes=[0, 2]),
    unary("reverse", X),
    unary("pad", X, pad=[1, 2, 0, 3], mode="constant", constant_val=0.5),
    unary("pad", X, pad=[1, 2, 2, 3], mode="reflect"),
    unary("pad", X, pad=[1, 2, 2, 3], mode="replicate"),
    Case("shape", {"x": X}, torch=lambda x: torch.tensor(x.shape)),
    Case("fill", {}, {"shape": [2, 3], "value": 1.5}),
    Case("range_1d", {}, {"start": 2.0, "end": 7.0, "step": 1.5}),
    unary("band_part", normal(2, 4, 4), lower=1, upper=0),
    unary("band_part", normal(2, 4, 4), lower=-1, upper=1),
]

_SLICE = {"begin": [0, -3, 1], "end": [2, 3, 4], "stride": [1, 1, 2]}

_TWICE = integers(0, 3, 2, 2, 4)

PLACES = [
    unary("slice_by_index", X, **_SLICE),
    unary(
        "slice_by_index",
        X,
        begin=[0, 1, 3],
        end=[0, 0, 0],
        stride=[1, 1, -1],
        begin_mask=[True, False, False],
        end_mask=[True, True, True],
        squeeze_mask=[False, False, False],
    ),
    unary("slice_by_index", X, begin=[1, 1, 0], end=[0, 0, 2], squeeze_mask=[True, True, False]),
    unary("slice_by_size", X, begin=[0, 1, 1], size=[2, -1, 2]),
    Case("slice_update", {"x": X, "update": normal(2, 3, 2)}, _SLICE),
    Case("gather", {"x": X}, {"indices": np.array([[2, 0], [-1, 1]], np.int32), "axis": 1}),
    Case(
        "gather",
        {"x": X, "indices": integers(0, 4, 2, 3, 2)},
        {"axis": 2, "batch_dims": 2},
        torch=lambda x, indices: torch.gather(x, 2, indices.long()),
    ),
    Case("gather_along_axis", {"x": X}, {"indices": integers(0, 3, 2, 5, 4), "axis": 1}),
    Case(
        "gather_nd",
        {"x": X, "indices": integers(0, 2, 5, 2)},
        torch=lambda x, indices: torch.stack([x[a, b] for a, b in indices]),
    ),
    Case(
        "gather_nd",
        {"x": X, "indices": integers(0, 3, 2, 5, 1)},
        {"batch_dims": 1},
        torch=lambda x, indices: torch.stack([x[i][indices[i, :, 0].long()] for i in range(len(x))]),
    ),
    *(
        Case(
            "scatter",
            {"data": X, "updates": POSITIVE[:, :2]},
            {"indices": np.array([2, 0], np.int32), "axis": 1, "mode": mode},
            torch=lambda data, updates, expected=expected: torch.stack(
                [expected(data[:, 0], updates[:, 1]), data[:, 1], expected(data[:, 2], updates[:, 0])], 1
            ),
        )
        for mode, expected in {
            "add": torch.add,
            "sub": torch.sub,
            "mul": torch.mul,
            "div": torch.div,
            "max": torch.maximum,
            "min": torch.minimum,
            "update": lambda old, new: new,
        }.items()
    ),
    Case(
        "scatter_along_axis",
        {"data": X, "updates": normal(2, 2, 4)},
        {"indices": _TWICE, "axis": 1, "mode": "add"},
        torch=lambda data, updates: data.scatter_add(1, torch.tensor(_TWICE).long(), updates),
        infer=False,
    ),  # it ignores the mode
    Case(
        "scatter_along_axis",
        {"data": X, "updates": normal(2, 1, 4)},
        {"indices": integers(0, 3, 2, 1, 4), "axis": 1, "mode": "update"},
    ),
    Case(
        "scatter_nd",
        {"data": X, "updates": normal(2, 4)},
        {"indices": np.array([[0, 1], [1, 2]], np.int32), "mode": "update"},
        torch=lambda data, updates: data.index_put((torch.tensor([0, 1]), torch.tensor([1, 2])), updates),
    ),
    Case(
        "one_hot",
        {"indices": integers(0, 4, 2, 3)},
        {"one_hot_vector_size": 4, "on_value": 2.0, "off_value": -1.0, "axis": 1},
        torch=lambda indices: 3.0 * F.one_hot(indices.long(), 4).movedim(-1, 1) - 1.0,
    ),
]

_WEIGHT, _BIAS = normal(6, 2, 3, 3), normal(6)
_VARIANCE = between(0.5, 1, 4)
_MASK = np.where(RANDOM.random((1, 1, 3, 5)) > 0.3, 0.0, -1e4).astype(np.float32)


def _same(x: torch.Tensor) -> torch.Tensor:
    """A strided convolution that keeps ⌈size / stride⌉ places, the odd pad last."""
    return F.conv2d(F.pad(x, (1, 1, 0, 1)), torch.tensor(_WEIGHT), torch.tensor(_BIAS), (2, 1), groups=2)


NETWORKS = [
    Case("linear", {"x": X}, {"weight": normal(5, 4), "bias": normal(5)}),
    Case("linear", {"x": X}, {"weight": np.eye(4, dtype=np.float32)[:2]}),
    Case("matmul", {"x": normal(2, 3, 4), "y": normal(1, 5, 4)}, {"transpose_y": True}),
    Case("matmul", {"x": normal(2, 4, 3), "y": normal(4, 5)}, {"transpose_x": True}),
    Case(
        "einsum",
        {"values": [normal(1, 3, 2, 4), normal(1, 4, 2, 5)]},
        {"equation": "bnhd,bdhk->bnhk"},
        torch=lambda values: torch.einsum("bnhd,bdhk->bnhk", *values),
    ),
    Case(
        "conv",
        {"x": IMAGE},
        {"weight": _WEIGHT, "bias": _BIAS, "groups": 2, "strides": [2, 1], "pad_type": "same"},
        torch=_same,
    ),
    Case(
        "conv",
        {"x": IMAGE},
        {"weight": _WEIGHT, "groups": 2, "strides": [2, 1], "pad_type": "same_lower"},
        torch=lambda x: F.conv2d(F.pad(x, (1, 1, 1, 0)), torch.tensor(_WEIGHT), None, (2, 1), groups=2),
    ),
    Case(
        "conv",
        {"x": IMAGE},
        {"weight": _WEIGHT, "bias": _BIAS, "groups": 2, "pad_type": "custom", "pad": [2, 0, 1, 3], "dilations": [2, 1]},
        torch=lambda x: F.conv2d(F.pad(x, (1, 3, 2, 0)), torch.tensor(_WEIGHT), torch.tensor(_BIAS), 1, 0, (2, 1), 2),
    ),
    Case(
        "conv",
        {"x": normal(1, 2, 7)},
        {"weight": _WEIGHT[:, :, 0]},
        torch=lambda x: F.conv1d(x, torch.tensor(_WEIGHT[:, :, 0])),
    ),
    Case(
        "conv_transpose",
        {"x": IMAGE},
        {"weight": normal(4, 3, 3, 2) * 0 + _WEIGHT[:4, :1, :, :2], "strides": [2, 1], "pad_type": "valid"},
        torch=lambda x: F.conv_transpose2d(x, torch.tensor(_WEIGHT[:4, :1, :, :2]).expand(4, 3, 3, 2), stride=(2, 1)),
    ),
    Case(
        "conv_transpose",
        {"x": IMAGE},
        {"weight": _WEIGHT[:4], "bias": _BIAS[:2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 0, 1]},
        torch=lambda x: F.conv_transpose2d(x, torch.tensor(_WEIGHT[:4]), torch.tensor(_BIAS[:2]), 2)[:, :, 1:, :-1],
    ),
    Case("layer_norm", {"x": X}, {"axes": [-1], "gamma": normal(4), "beta": normal(4), "epsilon": 0.1}),
    Case("layer_norm", {"x": X}, {"axes": [1, 2], "epsilon": 0.1}, torch=lambda x: F.layer_norm(x, (3, 4), eps=0.1)),
    Case(
        "batch_norm",
        {"x": IMAGE},
        {"mean": _BIAS[1:5], "variance": _VARIANCE, "gamma": _BIAS[:4], "beta": _BIAS[2:], "epsilon": 0.1},
        torch=lambda x: F.batch_norm(
            x,
            torch.tensor(_BIAS[1:5]),
            torch.tensor(_VARIANCE),
            torch.tensor(_BIAS[:4]),
            torch.tensor(_BIAS[2:]),
            eps=0.1,
        ),
    ),
    Case(
        "instance_norm",
        {"x": IMAGE},
        {"gamma": _BIAS[:4], "beta": _BIAS[2:], "epsilon": 0.1},
        torch=lambda x: F.instance_norm(x, weight=torch.tensor(_BIAS[:4]), bias=torch.tensor(_BIAS[2:]), eps=0.1),
    ),
    Case("l2_norm", {"x": IMAGE}, {"epsilon": 0.1}),
    Case(
        "scaled_dot_product_attention",
        {"query": normal(1, 2, 3, 4), "key": normal(1, 2, 5, 4), "value": normal(1, 2, 5, 4), "attn_mask": _MASK},
        torch=lambda query, key, value, attn_mask: torch.softmax(query @ key.mT / 2 + attn_mask, -1) @ value,
    ),
]

CASES = [*ELEMENTWISE, *REDUCTIONS, *SHAPES, *PLACES, *NETWORKS]
