"""The table of ops: what each computes, in float32, and which type its result has.

An op is a function of torch tensors whose parameters are called as MIL's. Their annotations say how an argument is
given to it: `Tensor`, `Sequence[Tensor]`, or a number, list or text for what only constants can be.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from sottovoce.errors import PackageError
from sottovoce.export.mil.types import FLOATS, Typed


@dataclass
class State:
    """A value that outlives a run; ops read and write it in place."""

    value: Tensor
    dtype: str


Given = Mapping[str, "Typed | State | tuple[Typed, ...]"]
"""An op's arguments by name."""

Rule = Callable[[Given], str]
"""The type of an op's results from its arguments."""

Ints = Sequence[int]
Bools = Sequence[bool]


@dataclass(frozen=True)
class Op:
    """One entry of the table: the function, its parameters, and the rules of its results' types."""

    function: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    rules: tuple[Rule, ...]
    mixed: bool


OPS: Final[dict[str, Op]] = {}
"""Every op that can be run, by type; the modules of `ops/` fill it."""


def of(name: str) -> Rule:
    """Results have the type of argument `name` (of its first item, where it has several)."""

    def rule(given: Given) -> str:
        value = given[name]
        return value[0].dtype if isinstance(value, tuple) else value.dtype

    return rule


def always(dtype: str) -> Rule:
    """Results are of type `dtype`."""
    return lambda given: dtype


def named(name: str, default: str) -> Rule:
    """Results are of the type that the text argument `name` calls for."""

    def rule(given: Given) -> str:
        value = given.get(name)
        return str(value.value) if isinstance(value, Typed) else default

    return rule


def op(*types: str, dtype: Rule | tuple[Rule, ...] | None = None, mixed: bool = False) -> Callable[[Any], Any]:
    """Enter the decorated function as the ops `types`.

    `dtype` has a rule per result (one for all, where it is no tuple); by default the first parameter's type. `mixed`
    ops may be given floats of several types.
    """

    def enter(function: Any) -> Any:
        parameters = inspect.signature(function).parameters
        rule = dtype or of(next(iter(parameters)))
        for name in types:
            OPS[name] = Op(function, parameters, rule if isinstance(rule, tuple) else (rule,), mixed)
        return function

    return enter


def call(entry: Op, given: Given) -> list[tuple[Any, str]]:
    """Run an op: its results and their types.

    Raises PackageError for an argument that the op does not have or lacks, or that is of the wrong kind.
    """
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        if name not in entry.parameters:
            raise PackageError(f"argument {name!r} is not supported")
        arguments[name] = _convert(entry.parameters[name].annotation, value, name)
    missing = [name for name, p in entry.parameters.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise PackageError(f"argument {missing[0]!r} is missing")
    if not entry.mixed:
        _check_floats(arguments, given)
    result = entry.function(**arguments)
    results = result if isinstance(result, tuple) else (result,)
    rules = entry.rules * len(results) if len(entry.rules) == 1 else entry.rules
    return [(value, rule(given)) for value, rule in zip(results, rules, strict=False)]


def _convert(annotation: Any, value: "Typed | State | tuple[Typed, ...]", name: str) -> Any:
    """An argument as the op's function takes it."""
    if isinstance(value, State) or annotation is State:
        if isinstance(value, State) and annotation is State:
            return value
        raise PackageError(f"argument {name!r} is {'a' if isinstance(value, State) else 'no'} state")
    items = value if isinstance(value, tuple) else (value,)
    if annotation == Sequence[Tensor]:
        return [item.value for item in items]
    if len(items) != 1:
        raise PackageError(f"argument {name!r} has {len(items)} values, one is needed")
    content = items[0].value
    if annotation in (Tensor, Tensor | None):
        if isinstance(content, str):
            raise PackageError(f"argument {name!r} is text, a tensor is needed")
        return content
    if isinstance(content, str):
        return content
    # What is a number or a list there must be a constant; the program was checked for that by whoever made it.
    return content.tolist() if content.dim() else content.item()


def _check_floats(arguments: Mapping[str, Any], given: Given) -> None:
    """PackageError where tensors of several float types meet: Core ML refuses that."""
    kinds = set()
    for name, value in given.items():
        items = value if isinstance(value, tuple) else (value,)
        content = arguments[name]
        tensors = isinstance(content, Tensor) or (isinstance(content, list) and isinstance(content[0], Tensor))
        kinds |= {item.dtype for item in items if tensors and item.dtype in FLOATS}
    if len(kinds) > 1:
        raise PackageError(f"floats of several types meet: {', '.join(sorted(kinds))}")
