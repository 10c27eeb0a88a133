"""What a run tells: rows, lines for a log, a line on a terminal, and the plot."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib import image
from rich.console import Console

from sottovoce.compress import metrics
from sottovoce.compress.metrics import PLOT, Metrics, draw, read_rows
from sottovoce.errors import OutputError


def row(step: int, **more: Any) -> dict[str, Any]:
    """A row as the loop makes it."""
    return {"step": step, "loss": 2.0 / step, "lr": 0.1, "gradient": 1.0, "tokens": 7, **more}


def told(folder: Path, rows: int) -> None:
    """A run of `rows` steps."""
    with Metrics(folder, 0, rows) as run:
        for step in range(1, rows + 1):
            run.row(row(step, window=9, tau=None if step == rows else 10.0**step))


def test_plain_lines_are_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    told(tmp_path, 12)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) < 12
    assert lines[-1] == "step 12/12: loss 0.1667, window 9, 0 min left"
    assert "tau" in lines[0] and "min left" in lines[0]


def test_a_terminal_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=100, record=True, file=(tmp_path / "screen").open("w"))
    make = metrics._progress
    monkeypatch.setattr(metrics, "_progress", lambda: make(console))
    told(tmp_path, 5)
    console.file.close()
    screen = (tmp_path / "screen").read_text()
    assert "loss 0.4, window 9" in screen and "5/5" in screen and "step 5/5" not in screen


def test_rows_are_there_at_once(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, 3) as run:
        run.row(row(1))
        assert [r["step"] for r in read_rows(tmp_path)] == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("the plot cannot be written")

    monkeypatch.setattr(metrics, "draw", full)
    with (
        pytest.raises(OutputError, match=r"metrics\.jsonl cannot be written: No space left"),
        Metrics(tmp_path, 0, 3) as run,
    ):
        run.file.close()
        run.file = Path("/dev/full").open("w")  # noqa: SIM115 (the run closes it)
        run.row(row(1))


def test_the_plot_has_a_panel_per_quantity(tmp_path: Path) -> None:
    sizes = []
    for more in ({}, {"window": 5, "tau": 1.0}):
        draw([row(step, **more) for step in (1, 2, 3)], tmp_path / PLOT)
        sizes.append(image.imread(tmp_path / PLOT).shape[0])
    assert sizes == [660, 1100]


def test_nothing_to_draw(tmp_path: Path) -> None:
    draw([], tmp_path / PLOT)
    assert not (tmp_path / PLOT).exists()


@pytest.mark.parametrize(("values", "wide"), [([1.0, 1000.0], True), ([1.0, 2.0], False), ([0.0, 1000.0], False)])
def test_scale(values: list[float], wide: bool) -> None:
    assert metrics._is_wide([{"x": value} for value in values] + [{"x": None}], "x") == wide
