"""Ops that work value by value: arithmetic, comparisons, activations, casts."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.export.mil.registry import always, named, of, op
from sottovoce.export.mil.types import storage

_ARITHMETIC = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.true_divide,  # of integers: rounded towards zero by the result's type
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}

_COMPARISONS = {
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}

_FUNCTIONS = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0),
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """`function` under MIL's parameter names."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return run


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """`function` under MIL's parameter name."""

    def run(x: Tensor) -> Tensor:
        return function(x)

    return run


for _name, _function in _ARITHMETIC.items():
    op(_name)(_binary(_function))
for _name, _function in _COMPARISONS.items():
    op(_name, dtype=always("bool"))(_binary(_function))
for _name, _function in _FUNCTIONS.items():
    op(_name)(_unary(_function))


@op("logical_not", dtype=always("bool"))
def logical_not(x: Tensor) -> Tensor:
    """Whether x is zero."""
    return torch.logical_not(x)


@op("cast", dtype=named("dtype", "fp32"))
def cast(x: Tensor, dtype: str) -> Tensor:
    """x as another type; floats become integers towards zero."""
    return x.to(storage(dtype).holder)


@op("inverse")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + ε)."""
    return 1 / (x + epsilon)


@op("log")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """ln(x + ε)."""
    return torch.log(x + epsilon)


@op("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / √(x + ε)."""
    return torch.rsqrt(x + epsilon)


@op("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """x, at least α and at most β."""
    return x.clamp(alpha, beta)


@op("threshold")
def threshold(x: Tensor, alpha: float) -> Tensor:
    """x, at least α."""
    return x.clamp(min=alpha)


@op("select", dtype=of("a"))
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where `cond`, b elsewhere."""
    return torch.where(cond, a, b)


@op("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    """x above 0, α(eˣ − 1) below."""
    return F.elu(x, alpha)


@op("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x·Φ(x), or one of its approximations."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@op("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """x above 0, αx below."""
    return F.leaky_relu(x, alpha)


@op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """`leaky_relu` with an α for each channel, axis 1."""
    return F.prelu(x, alpha)


@op("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float = 0.0) -> Tensor:
    """αx + β."""
    return alpha * x + beta


@op("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """`leaky_relu`, at most β."""
    return F.leaky_relu(x, alpha).clamp(max=beta)


@op("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where it is at least α, 0 elsewhere."""
    return torch.where(x >= alpha, x, 0.0)


@op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """αx + β, between 0 and 1."""
    return (alpha * x + beta).clamp(0, 1)


@op("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """α·tanh(βx)."""
    return alpha * torch.tanh(beta * x)
