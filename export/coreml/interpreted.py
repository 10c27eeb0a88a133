"""The interpreter as an engine: for the runtime's seam, and under the driver that verifies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sottovoce.export.mil.package import load_package
from sottovoce.export.mil.registry import State
from sottovoce.export.mil.runner import Constants, Runner
from sottovoce.export.mil.types import Typed, from_array, to_array


class InterpretedEngine:
    """A package whose functions share constants; `runtime.coreml.Engine`, as `OpenEngine` opens it, without Apple."""

    def __init__(self, path: Path, functions: Sequence[str] | None = None) -> None:
        """Open the package in `path` for `functions` (all of them where None)."""
        package, constants = load_package(path), Constants()
        self._runners = {name: Runner(package, name, constants) for name in functions or package.functions}

    @property
    def functions(self) -> tuple[str, ...]:
        """Those that are open."""
        return tuple(self._runners)

    def make_state(self, function: str) -> dict[str, State]:
        """See `Engine`: by name."""
        return self._runners[function].states()

    def predict(
        self, function: str, feeds: Mapping[str, np.ndarray], state: Mapping[str, State] | None
    ) -> dict[str, np.ndarray]:
        """Outputs of one function; `state` is read and written in place."""
        return self._runners[function].run(feeds, state)


class Interpreted:
    """The driver's engine: one set of states, which it can fill and read."""

    def __init__(self, path: Path) -> None:
        """Open the package in `path`."""
        self._engine = InterpretedEngine(path)
        self._states = {k: v for name in self._engine.functions for k, v in self._engine.make_state(name).items()}

    def run(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `drive.Engine`."""
        return self._engine.predict(function, inputs, self._states)

    def fill(self, states: Mapping[str, np.ndarray]) -> None:
        """See `drive.Engine`."""
        for name, array in states.items():
            self._states[name].value = from_array(array, "fp16").value

    def states(self) -> dict[str, np.ndarray]:
        """See `drive.Engine`."""
        return {name: to_array(Typed(state.value, state.dtype)) for name, state in self._states.items()}
