"""The table of attention: ways differ in how they come to the same sums, and a row says what each takes."""

import os
from pathlib import Path

import numpy as np
import pytest
from benchmarks.attention import WAYS, Shape, Side, Way, main

from sottovoce.runtime.session import NO_TILES

TINY = Shape(layers=2, heads=4, kv_heads=2, head_dim=16)


def sums(folder: Path, way: Way) -> np.ndarray:
    side = Side(folder / "0.onnx", TINY, 300, 1, way)
    side.turn()
    return side.binding.copy_outputs_to_cpu()[-1]


@pytest.mark.parametrize("before", [None, "0"])
def test_tiles_sum_the_same_in_another_order(tmp_path, monkeypatch, before) -> None:
    monkeypatch.delenv(NO_TILES, raising=False)
    if before:
        monkeypatch.setenv(NO_TILES, before)
    found = {way: sums(tmp_path, way) for way in WAYS.values()}
    for way in WAYS.values():
        other = found[Way("1", way.scale, way.int8)]
        assert found[way] == pytest.approx(other, abs=1e-5)
        assert (found[way] != other).any() == (way.off == "0")  # else the engine has no such switch any more
    assert np.abs(found[Way("1")] - found[Way("1", 1.0)]).max() > 1e-2
    assert os.environ.get(NO_TILES) == before


def test_a_row_for_each_way(capsys) -> None:
    assert main(["--rounds", "1"], TINY, (8, 16)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {way}" for way in WAYS]
    assert all(float(cell) >= 0 for line in lines[4:] for cell in line.split("|")[2:4])
