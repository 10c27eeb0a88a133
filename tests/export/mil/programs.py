"""Small ML programs, built with coremltools' own builder and saved as packages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from sottovoce.export.mil.apple import coremltools as ct

KINDS = {np.dtype(np.float16): types.fp16, np.dtype(np.float32): types.fp32, np.dtype(np.int32): types.int32}


def save(path: Path, inputs: Sequence[Any], build: Callable[..., Any], target: Any = None) -> Path:
    """Write the package of a program that `build` makes of variables for `inputs` (arrays, or specs of states)."""
    target = target or ct.target.iOS18
    specs = [mb.TensorSpec(x.shape, KINDS[x.dtype]) if isinstance(x, np.ndarray) else x for x in inputs]
    names = [f"input{i}" for i in range(len(specs))]
    scope: dict[str, Any] = {"build": build}
    exec(f"def main({', '.join(names)}):\n return build({', '.join(names)})", scope)
    program = mb.program(input_specs=specs, opset_version=target)(scope["main"])
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def given(variable: Any, array: np.ndarray) -> Any:
    """A bool input comes as int32: a program takes no others."""
    return mb.cast(x=variable, dtype="bool") if array.dtype == np.bool_ else variable
