"""The table of attention: tiles and whole rows compute the same sums, and a row says what each takes."""

import os
from pathlib import Path

import numpy as np
import pytest
from benchmarks.attention import WAYS, Shape, Side, main

from sottovoce.runtime.session import NO_TILES

TINY = Shape(layers=2, heads=4, kv_heads=2, head_dim=16)


def sums(folder: Path, way: str) -> np.ndarray:
    side = Side(folder / "0.onnx", TINY, 9, 1, way)
    side.turn()
    return side.binding.copy_outputs_to_cpu()[-1]


def test_ways_differ_in_what_they_multiply_by_alone(tmp_path) -> None:
    tiles, tiles_by_one, rows, rows_by_one = (sums(tmp_path, way) for way in WAYS)
    assert tiles == pytest.approx(rows, abs=1e-5)
    assert tiles_by_one == pytest.approx(rows_by_one, abs=1e-5)
    assert np.abs(tiles - tiles_by_one).max() > 1e-2
    assert NO_TILES not in os.environ


def test_a_row_for_each_way(capsys) -> None:
    assert main(["--rounds", "1"], TINY, (8, 16)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {way}" for way in WAYS]
    assert all(float(cell) >= 0 for line in lines[4:] for cell in line.split("|")[2:4])
