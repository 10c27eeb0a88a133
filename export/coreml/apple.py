"""Core ML itself for verification, on macOS: predictions on each compute unit, and where ops are placed.

Written against coremltools' documentation; nothing in this file has run on Apple hardware yet.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sottovoce.export.coreml.layout import Layout
from sottovoce.export.mil.apple import coremltools as ct
from sottovoce.runtime.apple import UNITS, AppleEngine

__all__ = ["UNITS", "OnApple", "placement"]


class OnApple:
    """The driver's engine over `MLModel.predict`; states are the model's, read and written by name."""

    def __init__(self, path: Path, unit: str, layout: Layout) -> None:
        """Load the functions of the package in `path` on `unit`."""
        self._engine = AppleEngine(path, layout.functions, unit)
        self._names = {function: tuple(layout.states(function)) for function in layout.functions}
        owners = {names: function for function, names in self._names.items() if names}
        self._states = {names: self._engine.make_state(function) for names, function in owners.items()}

    def run(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine`."""
        return self._engine.predict(function, inputs, self._states.get(self._names[function]))

    def fill(self, states: Mapping[str, np.ndarray]) -> None:
        """See `Engine`."""
        for names, state in self._states.items():
            for name in states.keys() & set(names):
                state.write_state(name, states[name])

    def states(self) -> dict[str, np.ndarray]:
        """See `Engine`."""
        each = ((name, state) for names, state in self._states.items() for name in names)
        return {name: np.asarray(state.read_state(name), np.float16) for name, state in each}


def placement(path: Path, unit: str) -> dict[str, int]:
    """How many ops of all functions `MLComputePlan` would place on each device (macOS 14.4 and later)."""
    compiled = ct.models.utils.compile_model(str(path))
    plan: Any = ct.models.compute_plan.MLComputePlan.load_from_path(
        compiled, compute_units=getattr(ct.ComputeUnit, unit)
    )
    counts: Counter[str] = Counter()
    for function in plan.model_structure.program.functions.values():
        for operation in function.block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:
                counts[type(usage.preferred_compute_device).__name__] += 1
    return dict(counts)
