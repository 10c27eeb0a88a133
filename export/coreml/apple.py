"""Core ML itself for verification, on macOS: predictions on each compute unit, and where ops are placed.

Written against coremltools' documentation; nothing in this file has run on Apple hardware yet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sottovoce.export.mil.apple import coremltools as ct
from sottovoce.runtime.apple import UNITS, AppleEngine

__all__ = ["UNITS", "OnApple", "placement"]


class OnApple:
    """The driver's engine over `MLModel.predict`; states are the model's, read and written by name."""

    def __init__(self, path: Path, unit: str, functions: Sequence[str], stateful: bool) -> None:
        """Load `functions` of the package in `path` on `unit`."""
        self._engine = AppleEngine(path, functions, stateful, unit)
        self._state = self._engine.make_state()
        self._names: list[str] = []

    def run(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine`."""
        return self._engine.predict(function, inputs, self._state)

    def fill(self, states: Mapping[str, np.ndarray]) -> None:
        """See `Engine`."""
        self._names = list(states)
        for name, array in states.items():
            self._state.write_state(name, array)

    def states(self) -> dict[str, np.ndarray]:
        """See `Engine`."""
        return {name: np.asarray(self._state.read_state(name), np.float16) for name in self._names}


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
