"""Core ML itself, through coremltools on macOS. Written against its documentation; not verified on hardware yet."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from sottovoce.errors import BundleError, MissingExtraError
from sottovoce.runtime.coreml import Engine, Feeds, OpenEngine, check_unit
from sottovoce.runtime.session import Array

UNITS: Final = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
"""Compute units by coremltools' names."""


class AppleEngine:
    """A package opened once per function, as `MLModel` wants it."""

    def __init__(self, path: Path, functions: Sequence[str], unit: str = "ALL") -> None:
        """Compile and load; raises BundleError off macOS, MissingExtraError without coremltools."""
        check_unit(unit, UNITS)
        if platform.system() != "Darwin":
            raise BundleError(
                f"{path} runs on macOS: elsewhere `sottovoce verify` and `sottovoce mil run` interpret it"
            )
        try:
            import coremltools
        except ModuleNotFoundError:
            raise MissingExtraError("coremltools", "coreml") from None
        units = getattr(coremltools.ComputeUnit, unit)
        self._models = {
            name: coremltools.models.MLModel(str(path), compute_units=units, function_name=name) for name in functions
        }

    def make_state(self, function: str) -> Any:
        """See `Engine`."""
        return self._models[function].make_state()

    def predict(self, function: str, feeds: Feeds, state: Any) -> dict[str, Array]:
        """See `Engine`."""
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        model = self._models[function]
        made = model.predict(arrays) if state is None else model.predict(arrays, state)
        return {name: np.asarray(array, np.float16) for name, array in made.items()}


def opener(unit: str = "ALL") -> OpenEngine:
    """Opens packages on `unit`."""

    def open_engine(path: Path, functions: Sequence[str]) -> Engine:
        return AppleEngine(path, functions, unit)

    return open_engine
