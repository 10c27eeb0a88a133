"""Each op against coremltools' own `value_inference`, and against torch where that knows nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from sottovoce.export.mil.apple import coremltools as ct
from sottovoce.export.mil.package import load_package
from sottovoce.export.mil.registry import OPS
from sottovoce.export.mil.runner import Runner
from tests.export.mil.cases import CASES, Case
from tests.export.mil.programs import given, save

ELSEWHERE = {
    "const": "test_runner.py",
    "read_state": "test_runner.py",
    "write_state": "test_runner.py",
    "constexpr_blockwise_shift_scale": "test_constexpr.py",
    "constexpr_affine_dequantize": "test_constexpr.py",
    "constexpr_cast": "test_constexpr.py",
    "constexpr_lut_to_dense": "test_constexpr.py",
    "constexpr_sparse_to_dense": "test_constexpr.py",
}
"""Ops that take no ordinary inputs, and the tests they have instead."""


def arrays(case: Case) -> list[np.ndarray]:
    """The inputs of the program, one after the other."""
    return [x for value in case.tensors.values() for x in (value if isinstance(value, list) else [value])]


def fed(array: np.ndarray) -> np.ndarray:
    """As a program takes it."""
    return array.astype(np.int32) if array.dtype == np.bool_ else array


def named(case: Case, values: list[Any]) -> dict[str, Any]:
    """One value per array, under the op's names again."""
    rest = iter(values)
    return {
        name: [next(rest) for _ in value] if isinstance(value, list) else next(rest)
        for name, value in case.tensors.items()
    }


def results(made: Any) -> list[Any]:
    """An op's results as a list."""
    return list(made) if isinstance(made, list | tuple) else [made]


def infer(case: Case) -> list[Any] | None:
    """What coremltools makes of the op with constants alone; None where its function fails and torch must know."""
    found: list[Any] = []
    if not case.infer:
        return None

    def build(x: Any) -> Any:
        copies = [x.copy() for x in arrays(case)]  # some of its functions write to what they are given
        found.extend(one.val for one in results(getattr(mb, case.type)(**named(case, copies), **case.params)))
        return mb.identity(x=x)

    try:
        mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS18)(build)
    except (TypeError, ValueError, AttributeError):
        if case.torch is None:
            raise
        return None
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[Any] | None, list[np.ndarray]]]:
    """For each case what coremltools infers (None: nothing) and what the interpreter gives.

    All cases are one program: a program each would take minutes.
    """
    counts: list[int] = []

    def build(*variables: Any) -> Any:
        rest, outputs = iter(variables), []
        for case in CASES:
            made = getattr(mb, case.type)(**named(case, [given(next(rest), x) for x in arrays(case)]), **case.params)
            counts.append(len(results(made)))
            for one in results(made):
                as_number = mb.cast(x=one, dtype="int32") if one.dtype == types.bool else one
                # An output that is a constant or an input would be no result of an op.
                outputs.append(mb.expand_dims(x=as_number, axes=[0]))
        return tuple(outputs)

    inputs = [fed(x) for case in CASES for x in arrays(case)]
    path = save(tmp_path_factory.mktemp("ops") / "ops.mlpackage", inputs, build)
    runner = Runner(load_package(path))
    outputs = runner.run(dict(zip(runner.function.inputs, inputs, strict=True)))
    values = iter(outputs[name][0] for name in runner.function.outputs)
    found = [(infer(case), [next(values) for _ in range(count)]) for case, count in zip(CASES, counts, strict=True)]
    assert next(values, None) is None
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i].type}")
def test_op(number: int, outcome: Any) -> None:
    case, (inferred, found) = CASES[number], outcome[number]
    expected = [inferred] if inferred and all(value is not None for value in inferred) else []
    if case.torch:
        expected.append(results(case.torch(**named(case, [torch.tensor(x) for x in arrays(case)]))))
    assert expected, f"nothing says what {case.type} should give: the case needs torch"
    for wanted in expected:
        assert len(wanted) == len(found)
        for want, got in zip(wanted, found, strict=True):
            assert np.shape(want) == got.shape
            np.testing.assert_allclose(got, np.asarray(want), rtol=2e-5, atol=2e-6)


def test_every_op_has_a_case() -> None:
    assert {case.type for case in CASES} | set(ELSEWHERE) == set(OPS)
    for name, file in ELSEWHERE.items():
        assert name in (Path(__file__).parent / file).read_text()
