"""A torch module → a Core ML package: traced, made half precision, its weights compressed, functions merged.

The way there is `torch.export`: traced the other way (`torch.jit.trace`), a write by index vanishes without a word.
"""

import contextlib
import io
import json
import logging
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn

from sottovoce.errors import OptionError, OutputError
from sottovoce.export.mil.apple import Model_pb2
from sottovoce.export.mil.apple import coremltools as ct

Compression = Literal["fp16", "int8", "int4", "palette4"]

BLOCK: Final = 32
"""Weights that share a scale where four bits are linear."""

WEIGHT_BYTES: Final[dict[Compression, float]] = {"fp16": 2, "int8": 1, "int4": 0.5 + 2 / BLOCK, "palette4": 0.5}
"""Bytes of a weight, its share of the scales included where a few weights share one."""

SPECIFICATION: Final = 9
"""Version of the package format that is written: iOS 18, macOS 15."""

MODEL = "com.apple.CoreML/model.mlmodel"
WEIGHTS = "com.apple.CoreML/weights"
_NAMESPACE = uuid.UUID("5f0c9f5e-5d33-4b29-8d1e-0b8ac2f0a3c1")


@dataclass(frozen=True)
class Traceable:
    """A module as one function: its inputs by name, in the order of `forward`, outputs by name, and states by shape."""

    module: nn.Module
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Sequence[str]
    states: Mapping[str, tuple[int, ...]]


def write_package(functions: Mapping[str, Traceable], compression: Compression, target: Path) -> None:
    """Convert each function, compress its weights, and write them as one package, `target`, equal weights once.

    The first function is the default one. Weights are compressed per function and merged after that: coremltools
    compresses no package of several functions. Raises OutputError where the disk refuses.
    """
    with tempfile.TemporaryDirectory(prefix="sottovoce-") as name, quiet():
        folder = Path(name)
        try:
            merged = ct.utils.MultiFunctionDescriptor()
            for function, traceable in functions.items():
                path = folder / f"{function}.mlpackage"
                compress(convert(traceable), compression).save(str(path))
                merged.add_function(str(path), "main", function)
            merged.default_function_name = next(iter(functions))
            ct.utils.save_multifunction(merged, str(folder / "merged.mlpackage"))
            tidy(folder / "merged.mlpackage", target)
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error}") from error


def convert(traceable: Traceable) -> Any:
    """The module as an ML program in half precision (`ct.models.MLModel`), weights not compressed."""
    examples = tuple(torch.zeros(shape) for shape in traceable.inputs.values())
    with torch.no_grad():
        program = torch.export.export(traceable.module.eval(), examples).run_decompositions({})
    states = [
        ct.StateType(wrapped_type=ct.TensorType(shape=shape, dtype=np.float16), name=name)
        for name, shape in traceable.states.items()
    ]
    return ct.convert(
        program,
        inputs=[ct.TensorType(name=name, shape=shape, dtype=np.float16) for name, shape in traceable.inputs.items()],
        outputs=[ct.TensorType(name=name, dtype=np.float16) for name in traceable.outputs],
        states=states or None,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )


def compress(model: Any, compression: Compression) -> Any:
    """`model` with its weights in `compression`; small ones (norms, biases) stay fp16."""
    optimize = ct.optimize.coreml
    if compression == "fp16":
        return model
    if compression == "palette4":
        # One table for a whole matrix: tables by group with scales come out larger than fp16 (coremltools 9.0).
        palette = optimize.OpPalettizerConfig(mode="kmeans", nbits=4, granularity="per_tensor")
        return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))
    block = (
        {"granularity": "per_block", "block_size": BLOCK} if compression == "int4" else {"granularity": "per_channel"}
    )
    linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=compression, **block)
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))


def check_compression(widths: Sequence[int], compression: Compression) -> None:
    """OptionError where a matrix has input widths that blocks do not divide."""
    if compression == "int4" and (odd := [width for width in widths if width % BLOCK]):
        raise OptionError(f"--weights int4 takes blocks of {BLOCK}, which do not divide a width of {odd[0]}: use int8")


def tidy(made: Path, target: Path) -> None:
    """Write the package `made` to `target` without what differs from run to run: identifiers, and notes for
    debuggers."""
    manifest = json.loads((made / "Manifest.json").read_text(encoding="utf-8"))
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    model = Model_pb2.Model()
    model.ParseFromString((made / "Data" / root).read_bytes())
    model.description.metadata.Clear()
    data = target / "Data"
    (data / WEIGHTS).mkdir(parents=True)
    (data / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    shutil.copyfile(made / "Data" / WEIGHTS / "weight.bin", data / WEIGHTS / "weight.bin")
    entries = {
        str(uuid.uuid5(_NAMESPACE, path)): {
            "author": "com.apple.CoreML",
            "description": text,
            "name": Path(path).name,
            "path": path,
        }
        for path, text in ((MODEL, "CoreML Model Specification"), (WEIGHTS, "CoreML Model Weights"))
    }
    value = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": next(iter(entries)),
    }
    (target / "Manifest.json").write_text(json.dumps(value, indent=4) + "\n", encoding="utf-8")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hush the converter: bars, and warnings of things that no user of this package can act on."""
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
