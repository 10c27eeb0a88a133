"""The table of kernels: every graph computes the same kind of product, and every row takes its turn."""

import benchmarks.kernel_graphs as graphs
import numpy as np
import onnxruntime
import pytest
from benchmarks.kernels import BEST, main, rows


@pytest.fixture
def small(monkeypatch) -> None:
    """Two products of 128 and 256, one layer."""
    monkeypatch.setattr(graphs, "LAYER", ((128, 256), (256, 128)))
    monkeypatch.setattr(graphs, "APART", dict.fromkeys(graphs.APART, (128, 128)))
    monkeypatch.setattr(graphs, "SIZE", 1)
    monkeypatch.setattr(graphs, "CACHED", 1)


@pytest.mark.parametrize("name", graphs.GRAPHS)
def test_products_keep_their_size(small, tmp_path, name: str) -> None:
    size = graphs.write(name, graphs.GRAPHS[name], tmp_path / "0.onnx")
    # The smallest tensors stay in the graph.
    assert size == pytest.approx(sum(path.stat().st_size for path in tmp_path.glob("*.data")), rel=0.1)
    session = onnxruntime.InferenceSession(tmp_path / "0.onnx", providers=["CPUExecutionProvider"])
    value = np.random.default_rng(1).standard_normal((1, 128), np.float32)
    (found,) = session.run(None, {"x": value})
    assert found.shape == (1, 128)
    assert 0.2 < found.std() < 5


def test_a_row_each_and_what_the_engine_refuses_is_said(small, tmp_path, capsys) -> None:
    chosen = {name: graphs.GRAPHS[name] for name in ("MatMul, fp32", BEST[1])}
    chosen["none"] = lambda chain, x, k, n: chain.node("NoSuchOperator", [x, graphs.floats(chain, x, k, n)])
    assert main(["--rounds", "1", "--folder", str(tmp_path)], chosen) == 0
    said = capsys.readouterr().out.splitlines()
    names = [row.name for row in rows(list(chosen), 1)]
    assert [line.split(" | ")[0] for line in said[4:]] == [f"| {name}" for name in names]
    assert "refused" in said[4 + names.index("none")]
    assert sum("refused" in line for line in said) == 1


def test_threads_are_pinned_where_there_are_several() -> None:
    entries = [row.entries for row in rows(BEST, 3) if row.label == "threads pinned"]
    assert entries == 2 * [{"session.intra_op_thread_affinities": "2;3"}]
    assert not [row for row in rows(BEST, 1) if row.label == "threads pinned"]
