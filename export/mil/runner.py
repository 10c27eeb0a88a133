"""Runs one function of a package, op by op, and holds every value to what the program declares of it.

An op is computed in float32 from rounded inputs and its result rounded to the declared type. That is more exact than an
accelerator that adds up in half precision; it is no model of one.
"""

from collections.abc import Mapping

import numpy as np
import torch

import sottovoce.export.mil.ops  # noqa: F401 - fills the table of ops
from sottovoce.errors import PackageError
from sottovoce.export.mil.package import Argument, Function, Operation, Package
from sottovoce.export.mil.registry import OPS, State, call
from sottovoce.export.mil.types import TensorType, Typed, from_array, rounded, storage, to_array
from sottovoce.export.mil.values import Stored

Constants = dict[object, Typed]
"""Constants read and decompressed so far, by where they come from; functions of one package may share them."""


class Runner:
    """One function, its constants in memory; a run keeps nothing but states, which the caller holds."""

    def __init__(self, package: Package, function: str | None = None, constants: Constants | None = None) -> None:
        """Read the constants of `function` (the default one where None), those in `constants` not again.

        Raises PackageError for an unknown op, and for a constant that is not what the program declares.
        """
        self.function: Function = package.function(function)
        self._where = f"{package.path}, function {self.function.name}"
        self._shared: Constants = {} if constants is None else constants
        self._constants: dict[str, Typed] = {}
        self._operations: list[Operation] = []
        for operation in self.function.operations:
            if operation.type not in OPS:
                raise PackageError(f"{self._where}: op {operation.type} ({operation.name}) is not supported")
            if operation.type == "const" or operation.type.startswith("constexpr_"):
                self._fold(operation)
            else:
                self._operations.append(operation)
        self._last = self._last_uses()

    def states(self) -> dict[str, State]:
        """Fresh states, all zeros, as Core ML makes them."""
        kinds = self.function.states
        return {name: State(torch.zeros(self._fixed(name, kind)), kind.dtype) for name, kind in kinds.items()}

    def constants(self) -> dict[str, torch.Tensor]:
        """Every constant tensor by name, decompressed, floats as float32."""
        return {name: typed.value for name, typed in self._constants.items() if isinstance(typed.value, torch.Tensor)}

    def run(self, inputs: Mapping[str, np.ndarray], states: Mapping[str, State] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name. `states` are read and written in place (None: fresh ones).

        Raises PackageError for inputs that are not the declared ones, and where an op contradicts its declaration.
        """
        held = self.states() if states is None else states
        if missing := sorted(self.function.states.keys() - held.keys()):
            raise PackageError(f"{self._where}: state {missing[0]} is missing")
        values: dict[str, Typed | State] = {**self._constants, **self._inputs(inputs), **held}
        with torch.no_grad():
            for number, operation in enumerate(self._operations):
                values.update(self._evaluate(operation, values))
                for name in self._last.get(number, ()):
                    del values[name]
        return {name: to_array(_typed(values[name])) for name in self.function.outputs}

    def _inputs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Typed]:
        """The caller's arrays as values, checked."""
        declared = self.function.inputs
        if odd := sorted(arrays.keys() ^ declared.keys()):
            said = "is missing" if odd[0] in declared else f"is unknown (it has {', '.join(declared)})"
            raise PackageError(f"{self._where}: input {odd[0]} {said}")
        for name, kind in declared.items():
            array = arrays[name]
            if array.dtype != storage(kind.dtype).array or not kind.fits(kind.dtype, array.shape):
                found = f"{array.dtype}{list(array.shape)}"
                raise PackageError(f"{self._where}: input {name} is {found}, the program says {kind}")
        return {name: from_array(arrays[name], kind.dtype) for name, kind in declared.items()}

    def _fixed(self, name: str, kind: TensorType) -> tuple[int, ...]:
        """The shape of a state, which may leave no axis open."""
        if None in kind.shape:
            raise PackageError(f"{self._where}: state {name} is {kind}, an axis of any length is not supported")
        return tuple(axis for axis in kind.shape if axis is not None)

    def _fold(self, operation: Operation) -> None:
        """Evaluate a constant op now; once, where functions share it."""
        key = _origin(operation, self._constants)
        if key in self._shared:
            results = {operation.outputs[0][0]: self._shared[key]}
        else:
            results = self._evaluate(operation, self._constants)
            self._shared[key] = next(iter(results.values()))
        self._constants.update(results)

    def _evaluate(self, operation: Operation, values: Mapping[str, Typed | State]) -> dict[str, Typed]:
        """The results of one op by name, rounded and checked."""
        try:
            given = {name: _resolve(argument, values) for name, argument in operation.inputs.items()}
            if operation.type == "const":  # a text too, which no op computes with
                made = [(_typed(given["val"]).value, _typed(given["val"]).dtype)]
            else:
                made = call(OPS[operation.type], given)
            if len(made) != len(operation.outputs):
                raise PackageError(f"it has {len(made)} results, {len(operation.outputs)} are declared")
            return {
                name: _checked(value, dtype, name, kind)
                for (value, dtype), (name, kind) in zip(made, operation.outputs, strict=True)
            }
        except (PackageError, RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise PackageError(f"{self._where}: op {operation.type} ({operation.name}): {line}") from error

    def _last_uses(self) -> dict[int, list[str]]:
        """For each op, the values that nothing reads after it."""
        last = {}
        for number, operation in enumerate(self._operations):
            last.update(dict.fromkeys((name for name, _ in operation.outputs), number))
            last.update(dict.fromkeys(operation.names(), number))
        kept = {*self.function.outputs, *self.function.inputs, *self.function.states, *self._constants}
        ends: dict[int, list[str]] = {}
        for name, number in last.items():
            if name not in kept:
                ends.setdefault(number, []).append(name)
        return ends


def _checked(value: object, dtype: str, name: str, kind: TensorType) -> Typed:
    """A result rounded to its type; PackageError unless it is what the program declares."""
    if isinstance(value, str):
        return Typed(value, dtype)
    assert isinstance(value, torch.Tensor)
    result = Typed(rounded(value, dtype), dtype)
    if not kind.fits(dtype, result.shape):
        raise PackageError(f"{name} is declared {kind} and comes out {result}")
    return result


def _resolve(argument: Argument, values: Mapping[str, Typed | State]) -> "Typed | State | tuple[Typed, ...]":
    """An argument's values."""
    if isinstance(argument, tuple):
        return tuple(_typed(_resolve(item, values)) for item in argument)
    if isinstance(argument, Stored):
        return argument.read()
    if isinstance(argument, str):
        if argument not in values:
            raise PackageError(f"value {argument!r} was not computed before")
        return values[argument]
    return argument


def _typed(value: "Typed | State | tuple[Typed, ...]") -> Typed:
    """A value that must be one tensor; PackageError for states and several."""
    if not isinstance(value, Typed):
        raise PackageError("a single tensor is needed here")
    return value


def _origin(operation: Operation, values: Mapping[str, Typed | State]) -> object:
    """What makes a constant op's result the same: its type and the bytes, or places in a file, of what it is given."""
    parts: list[object] = []
    for name, argument in sorted(operation.inputs.items()):
        items = argument if isinstance(argument, tuple) else (argument,)
        for item in items:
            if isinstance(item, Stored):
                parts.append((name, str(item.file.path), item.offset, item.dtype, item.shape))
            else:
                typed = _typed(_resolve(item, values))
                parts.append(
                    (name, id(typed.value), typed.dtype, typed.shape) if isinstance(item, str) else (name, id(typed))
                )
    return operation.type, tuple(parts)
