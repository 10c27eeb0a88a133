"""The lint finds each planted violation, and nothing where there is nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from sottovoce.__main__ import main
from sottovoce.export.mil.lint import LATER, NATIVE, lint
from sottovoce.export.mil.package import load_package
from sottovoce.export.mil.registry import OPS
from tests.export.mil.programs import save

HALF = np.float16
WIDE = np.zeros((1, 4, 1, 32), HALF)


def kernel(size: int) -> Callable[[Any], Any]:
    """A convolution of that width."""
    return lambda x: mb.conv(x=x, weight=np.ones((4, 4, 1, size), HALF))


def searched(length: int) -> Callable[[Any], Any]:
    """The largest of so many values; an index is an int, which is another violation."""
    return lambda x: mb.reduce_argmax(x=mb.tile(x=x, reps=[1, length // 4, 1, 1]), axis=1, keep_dims=True)


CLEAN = {
    "convolution": (WIDE, kernel(1)),
    "attention": (WIDE, lambda x: mb.softmax(x=mb.matmul(x=x, y=x, transpose_y=True), axis=-1)),
}

PLANTED = {
    "path": (
        WIDE,
        lambda x: mb.scatter(data=x, indices=np.array([1], np.int32), updates=np.ones((1, 4, 1, 1), HALF), axis=3),
        "op scatter has no path",
    ),
    "linear": (WIDE, lambda x: mb.linear(x=x, weight=np.ones((32, 32), HALF)), "op linear"),
    "rank": (np.zeros((4, 32), HALF), lambda x: mb.relu(x=x), "four axes"),
    "dtype": (WIDE.astype(np.float32), lambda x: mb.relu(x=x), "activations are fp16"),
    "whole numbers": (WIDE, lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp16"), "int32"),
    "alignment": (np.zeros((1, 4, 1, 33), HALF), lambda x: mb.relu(x=x), "no multiple of 32"),
    "dynamic": (
        WIDE,
        lambda x: mb.gather(x=x, indices=mb.cast(x=mb.reduce_max(x=x, axes=[0, 1, 2, 3]), dtype="int32"), axis=3),
        "takes indices at run time",
    ),
    "size": (WIDE, lambda x: mb.tile(x=x, reps=[1, 1, 1, 1024]), "at most 16384 along the last two axes"),
    "channels": (WIDE, lambda x: mb.tile(x=x, reps=[1, 20000, 1, 1]), "at most 65536 channels"),
    "kernel": (WIDE, kernel(17), r"a kernel of \[1, 17\]"),
    "search": (WIDE, searched(4096), "over up to 4096 values"),
}


def findings(path: Path, case: Any) -> list[Any]:
    """What the lint says of a program."""
    return lint(load_package(save(path / "a.mlpackage", [case[0]], case[1])))


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_where_nothing_is(name: str, tmp_path: Path) -> None:
    assert findings(tmp_path, CLEAN[name]) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str, tmp_path: Path) -> None:
    found = [f for f in findings(tmp_path, PLANTED[name]) if f.level == "violation"]
    assert any(re.search(PLANTED[name][2], str(finding)) for finding in found)
    assert all(finding.source for finding in found)


def test_a_state_is_checked_and_the_command_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build(x: Any, kept: Any) -> Any:
        mb.coreml_update_state(state=kept, value=x)
        return mb.relu(x=x)

    inputs = [np.zeros((1, 1, 1, 40), HALF), mb.StateTensorSpec((1, 1, 1, 40), types.fp16)]
    path = save(tmp_path / "s.mlpackage", inputs, build)
    assert main(["mil", "lint", str(path)]) == 1
    said = capsys.readouterr().out
    assert "state input1: fp16[1, 1, 1, 40]: the last axis is no multiple of 32" in said


def test_notes_do_not_fail(tmp_path: Path) -> None:
    found = findings(tmp_path, (WIDE, lambda x: mb.sin(x=x)))
    assert [(f.level, f.rule) for f in found] == [("note", "path")]


def test_the_lists_name_ops_that_exist() -> None:
    assert not NATIVE & LATER.keys()
    assert (NATIVE | LATER.keys()) <= OPS.keys()
