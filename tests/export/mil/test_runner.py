"""The interpreter around the ops: rounding, checks, states, several functions, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from sottovoce.__main__ import main
from sottovoce.errors import PackageError
from sottovoce.export.mil.apple import MIL_pb2, Model_pb2
from sottovoce.export.mil.apple import coremltools as ct
from sottovoce.export.mil.package import load_package
from sottovoce.export.mil.runner import Runner
from tests.export.mil.programs import save

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHT = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float16)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linear and add in half precision: `input0` fp16[1, 4] → fp16[1, 8]."""

    def build(x: Any) -> Any:
        return mb.add(x=mb.linear(x=x, weight=WEIGHT), y=np.float16(0.1), name="sum")

    return save(tmp_path_factory.mktemp("package") / "a.mlpackage", [np.zeros((1, 4), np.float16)], build)


def changed(package: Path, folder: Path, change: Any) -> Path:
    """A copy of `package` whose model was changed."""
    copy = Path(shutil.copytree(package, folder / "changed.mlpackage"))
    model = Model_pb2.Model()
    model.ParseFromString((copy / MODEL).read_bytes())
    change(model)
    (copy / MODEL).write_bytes(model.SerializeToString())
    return copy


def operations(model: Any) -> Any:
    """The ops of a model of one function."""
    (function,) = model.mlProgram.functions.values()
    return function.block_specializations[function.opset].operations


def test_every_result_is_rounded_to_half_precision(package: Path) -> None:
    x = np.array([[1.0, 2.0, -3.0, 0.3]], np.float16)
    (found,) = Runner(load_package(package)).run({"input0": x}).values()
    product = (x.astype(np.float32) @ WEIGHT.astype(np.float32).T).astype(np.float16)
    expected = (product.astype(np.float32) + np.float32(np.float16(0.1))).astype(np.float16)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected)
    exact = x.astype(np.float64) @ WEIGHT.astype(np.float64).T + 0.1
    assert (exact.astype(np.float16) != expected).any()  # else the test could not tell


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "input0 is missing"),
        ({"input0": np.zeros((1, 4), np.float16), "more": np.zeros(1)}, "input more is unknown"),
        ({"input0": np.zeros((1, 4), np.float32)}, r"input0 is float32\[1, 4\], the program says fp16\[1, 4\]"),
        ({"input0": np.zeros((4,), np.float16)}, r"input0 is float16\[4\]"),
    ],
)
def test_inputs_are_checked(package: Path, inputs: Any, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        Runner(load_package(package)).run(inputs)


def test_an_unknown_op_is_named(package: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        next(o for o in operations(model) if o.type == "linear").type = "teleport"

    with pytest.raises(PackageError, match=r"op teleport .* is not supported"):
        Runner(load_package(changed(package, tmp_path, change)))


def test_a_declared_shape_or_type_that_does_not_come_out_is_an_error(package: Path, tmp_path: Path) -> None:
    def shape(model: Any) -> None:
        made = next(o for o in operations(model) if o.type == "linear").outputs[0]
        made.type.tensorType.dimensions[1].constant.size = 9

    def dtype(model: Any) -> None:
        operations(model)[-1].outputs[0].type.tensorType.dataType = MIL_pb2.DataType.FLOAT32

    for number, (change, said) in enumerate(
        ((shape, r"fp16\[1, 9\].*comes out fp16\[1, 8\]"), (dtype, r"fp32\[1, 8\].*comes out fp16"))
    ):
        copy = changed(package, tmp_path / str(number), change)
        with pytest.raises(PackageError, match=said):
            Runner(load_package(copy)).run({"input0": np.zeros((1, 4), np.float16)})


def test_floats_of_two_types_may_not_meet(package: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        value = next(o for o in operations(model) if o.type == "add").inputs["y"].arguments[0]
        constant = value.value if value.WhichOneof("binding") == "value" else None
        if constant is None:  # by name: the constant's own op
            made = next(o for o in operations(model) if o.outputs and o.outputs[0].name == value.name)
            constant = made.attributes["val"]
            made.outputs[0].type.tensorType.dataType = MIL_pb2.DataType.FLOAT32
        constant.type.tensorType.dataType = MIL_pb2.DataType.FLOAT32
        constant.immediateValue.tensor.floats.values.append(0.1)

    with pytest.raises(PackageError, match="several types meet: fp16, fp32"):
        Runner(load_package(changed(package, tmp_path, change))).run({"input0": np.zeros((1, 4), np.float16)})


def test_states_outlive_a_run(tmp_path: Path) -> None:
    def build(x: Any, total: Any) -> Any:
        held = mb.read_state(input=total)
        mb.coreml_update_state(state=total, value=mb.add(x=held, y=x))
        return mb.mul(x=held, y=np.float16(2))

    path = save(tmp_path / "s.mlpackage", [np.zeros(3, np.float16), mb.StateTensorSpec((3,), types.fp16)], build)
    runner = Runner(load_package(path))
    assert {"read_state", "write_state"} <= {o.type for o in runner.function.operations}
    states, ones = runner.states(), np.ones(3, np.float16)
    (name,) = runner.function.inputs
    said = [next(iter(runner.run({name: ones}, states).values()))[0] for _ in range(3)]
    assert said == [0, 2, 4]
    assert next(iter(runner.run({name: ones}).values()))[0] == 0  # others have states of their own
    with pytest.raises(PackageError, match=r"state .* is missing"):
        runner.run({name: ones}, {})


def test_functions_of_one_package_share_constants(package: Path, tmp_path: Path) -> None:
    merged = ct.utils.MultiFunctionDescriptor()
    for name in ("one", "two"):
        merged.add_function(str(package), "main", name)
    merged.default_function_name = "two"
    ct.utils.save_multifunction(merged, str(tmp_path / "m.mlpackage"))
    found = load_package(tmp_path / "m.mlpackage")
    assert (list(found.functions), found.default) == (["one", "two"], "two")
    constants: dict[object, Any] = {}
    first = Runner(found, "one", constants)
    count = len(constants)
    second = Runner(found, "two", constants)
    large = [key for key, typed in constants.items() if typed.shape == (8, 4)]
    assert len(large) == 1
    assert len(constants) < 2 * count
    x = {"input0": np.ones((1, 4), np.float16)}
    for one, two in zip(first.run(x).values(), second.run(x).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(PackageError, match="no function 'three'"):
        found.function("three")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "Manifest.json").unlink(), "not a Core ML package"),
        (lambda p: (p / "Manifest.json").write_text("{}"), "not a Core ML package"),
        (lambda p: (p / MODEL).write_bytes(b"\xff" * 9), "cannot be read"),
        (lambda p: (p / MODEL).write_bytes(b""), "only ML programs"),
        (lambda p: elsewhere(p), "outside the package"),
    ],
)
def test_a_damaged_package_is_refused(package: Path, tmp_path: Path, damage: Any, said: str) -> None:
    copy = changed(package, tmp_path, lambda model: None)
    damage(copy)
    with pytest.raises(PackageError, match=said):
        load_package(copy)


def elsewhere(path: Path) -> None:
    """Let the manifest point out of the package."""
    value = json.loads((path / "Manifest.json").read_text())
    value["itemInfoEntries"][value["rootModelIdentifier"]]["path"] = "../../model.mlmodel"
    (path / "Manifest.json").write_text(json.dumps(value))


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    weight = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float16)
    path = save(tmp_path / "w.mlpackage", [np.zeros((1, 64), np.float16)], lambda x: mb.linear(x=x, weight=weight))
    file = path / "Data/com.apple.CoreML/weights/weight.bin"
    zeros = {"input0": np.ones((1, 64), np.float16)}
    (found,) = Runner(load_package(path)).run(zeros).values()
    np.testing.assert_array_equal(found[0], weight.astype(np.float32).sum(1).astype(np.float16))
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(PackageError, match="copy the package again"):
        Runner(load_package(path))


def test_the_commands(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mil", "show", str(package)]) == 0
    shown = capsys.readouterr().out
    assert "fp16[1, 4]" in shown
    assert "linear" in shown
    x = np.array([[1, 0, 0, 0]], np.float16)
    np.savez(tmp_path / "in.npz", input0=x)
    assert (
        main(["mil", "run", str(package), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]) == 0
    )
    assert "interpreted" in capsys.readouterr().out
    with np.load(tmp_path / "out.npz") as file:
        (found,) = file.values()
    assert found.shape == (1, 8)
    np.testing.assert_allclose(found[0], WEIGHT[:, 0] + np.float16(0.1), rtol=2e-3, atol=1e-3)
    assert main(["mil", "run", str(package), "--inputs", str(tmp_path / "none.npz")]) == 2
    assert main(["mil", "ops"]) == 0
    listed = capsys.readouterr().out
    assert "conv(x, weight, bias" in listed
