"""A `.mlpackage` on disk → its functions as plain dataclasses; knows the file format and runs nothing.

Packages come from strangers: paths stay inside the folder, and what is not understood is an error.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from sottovoce.errors import PackageError
from sottovoce.export.mil.apple import MIL_pb2, Model_pb2
from sottovoce.export.mil.blobs import WeightFile
from sottovoce.export.mil.types import TensorType, Typed, dtype_name
from sottovoce.export.mil.values import Reader, Stored

MODEL_PATH = "@model_path/"
"""What file names in a program begin with: the folder of the model file."""

Argument = str | Typed | Stored | tuple["str | Typed | Stored", ...]
"""What an op is given: the name of a value, a constant, or several of them."""


@dataclass(frozen=True)
class Operation:
    """One op; `outputs` are its results by name, in order."""

    type: str
    name: str
    inputs: Mapping[str, Argument]
    outputs: tuple[tuple[str, TensorType], ...]

    def names(self) -> Iterator[str]:
        """Values that it reads."""
        for argument in self.inputs.values():
            items = argument if isinstance(argument, tuple) else (argument,)
            yield from (item for item in items if isinstance(item, str))


@dataclass(frozen=True)
class Function:
    """One function of a program: what it takes, keeps and gives, and its ops in order."""

    name: str
    inputs: Mapping[str, TensorType]
    states: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]

    def output_types(self) -> dict[str, TensorType]:
        """Type of each output."""
        made = {name: kind for operation in self.operations for name, kind in operation.outputs}
        return {name: (made | dict(self.inputs))[name] for name in self.outputs}


@dataclass(frozen=True)
class Package:
    """An opened package. `specification` is the version of its format: 9 is iOS 18, 8 iOS 17."""

    path: Path
    specification: int
    default: str
    functions: Mapping[str, Function]

    def function(self, name: str | None = None) -> Function:
        """The function called `name`, the default one where None; PackageError where there is none."""
        if (wanted := name or self.default) not in self.functions:
            have = ", ".join(self.functions)
            raise PackageError(f"{self.path}: it has no function {wanted!r} (it has {have})")
        return self.functions[wanted]


def load_package(path: Path) -> Package:
    """Open the package in folder `path`.

    Raises PackageError where it is none, is damaged, or holds another kind of model than an ML program.
    """
    file = _model_file(path)
    model = Model_pb2.Model()
    try:
        model.ParseFromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        raise PackageError(f"{file} cannot be read: {error}") from None
    if model.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"{path} holds a {model.WhichOneof('Type')}, only ML programs are supported")
    reader = Reader(_Files(file.parent).open)
    functions = {name: _function(name, proto, reader) for name, proto in sorted(model.mlProgram.functions.items())}
    default = model.description.defaultFunctionName or ("main" if "main" in functions else next(iter(functions)))
    return Package(path, model.specificationVersion, default, functions)


def _model_file(path: Path) -> Path:
    """The file that `Manifest.json` calls the package's root model."""
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        name = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PackageError(f"{path} is not a Core ML package: its Manifest.json is missing or malformed") from None
    return _inside(path / "Data", str(name))


def _inside(folder: Path, name: str) -> Path:
    """The file `name` in `folder`; PackageError where the name leads out of it."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise PackageError(f"{folder}: {name!r} is outside the package")
    return folder / path


class _Files:
    """The weight files of a model, each opened once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, WeightFile] = {}

    def open(self, name: str) -> WeightFile:
        """The file that a program calls `@model_path/weights/weight.bin`."""
        if name not in self._open:
            self._open[name] = WeightFile(_inside(self._folder, name.removeprefix(MODEL_PATH)))
        return self._open[name]


def _function(name: str, proto: Any, reader: Reader) -> Function:
    """A function of the program; PackageError where it has several bodies or blocks in blocks."""
    if proto.opset not in proto.block_specializations:
        raise PackageError(f"function {name}: it has no body for its opset {proto.opset}")
    inputs: dict[str, TensorType] = {}
    states: dict[str, TensorType] = {}
    for item in proto.inputs:
        kind = item.type.WhichOneof("type")
        if kind == "stateType":
            states[item.name] = tensor_type(item.type.stateType.wrappedType)
        else:
            inputs[item.name] = tensor_type(item.type)
    block = proto.block_specializations[proto.opset]
    operations = tuple(_operation(item, reader) for item in block.operations)
    return Function(name, inputs, states, tuple(block.outputs), operations)


def _operation(proto: Any, reader: Reader) -> Operation:
    """One op; constants are read where they stand, files are mapped."""
    outputs = tuple((item.name, tensor_type(item.type)) for item in proto.outputs)
    name = outputs[0][0] if outputs else proto.type
    if len(proto.blocks):
        raise PackageError(f"op {proto.type} ({name}): ops with blocks inside (control flow) are not supported")
    inputs: dict[str, Argument] = {}
    for key, argument in proto.inputs.items():
        items = tuple(
            item.name if item.WhichOneof("binding") == "name" else reader.read(item.value)
            for item in argument.arguments
        )
        inputs[key] = items[0] if len(items) == 1 and key != "values" else items
    for key, value in proto.attributes.items():  # a constant's value; iOS 16 kept those of constexpr ops here too
        if key == "val" or (proto.type.startswith("constexpr_") and key != "name"):
            inputs[key] = reader.read(value)
    return Operation(proto.type, name, inputs, outputs)


def tensor_type(proto: "MIL_pb2.ValueType") -> TensorType:
    """The type of a tensor; PackageError for tuples, lists and dictionaries."""
    kind = proto.WhichOneof("type")
    if kind != "tensorType":
        raise PackageError(f"values of kind {kind} are not supported, tensors are")
    dims = (
        item.constant.size if item.WhichOneof("dimension") == "constant" else None
        for item in proto.tensorType.dimensions
    )
    return TensorType(dtype_name(proto.tensorType.dataType), tuple(dims))
