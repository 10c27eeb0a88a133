"""Latency over a long generation: what is timed, what is drawn, and the gate."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import window_latency
from benchmarks.window_latency import FIXED, GROWING, WINDOWED, Growing, Setting, end_over_start, main, make_bundles

from sottovoce.errors import OutputError
from sottovoce.export.parity import reference_logits
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from tests.models.shapes import CONFIGS

SETTING = Setting(CONFIGS["qwen2_tied"], prefix=7, window=5, tokens=30, runs=2, edge=8, skip=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("latency")


@pytest.fixture(scope="module")
def bundles(folder: Path) -> tuple[Path, Path]:
    return make_bundles(SETTING, folder)


def test_the_three_lines_say_what_torch_says(folder: Path, bundles: tuple[Path, Path]) -> None:
    windowed, full = bundles
    decoder = Checkpoint.open(folder / "checkpoint").load()
    prefix, tokens = list(range(7)), [token % 97 for token in range(30)]
    speakers = {5: Stream(load_bundle(windowed, threads=1)), 30: Stream(load_bundle(full, threads=1))}
    for window, speaker in [*speakers.items(), (30, Growing(full))]:
        logits = [np.array(speaker.prefill(prefix)), *(np.array(speaker.step(token)) for token in tokens)]
        expected = reference_logits(decoder, prefix, tokens, window, range(97))
        assert np.corrcoef(np.stack(logits).ravel(), expected.ravel())[0, 1] > 0.995  # quantized, both


def test_main_draws_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundles, capsys) -> None:
    monkeypatch.setattr(window_latency, "make_bundles", lambda setting, folder: bundles)
    for limit, status in ((1e9, 0), (0.0, 1)):
        monkeypatch.setattr(window_latency, "RATIO", limit)
        assert main(["-o", str(tmp_path / "plot.png")], SETTING) == status
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert all(f"  {name}: " in said for name in (WINDOWED, FIXED, GROWING))
    assert "MISS window" in said


def test_a_plot_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no folder"):
        main(["-o", str(tmp_path / "none" / "plot.png")], SETTING)


def test_the_gate_compares_the_end_with_the_start_run_by_run() -> None:
    seconds = np.ones((3, 30))
    assert end_over_start(seconds, SETTING) == 1
    seconds[:, :2] = 9  # skipped
    seconds[0, -8:] = 5  # one noisy run
    assert end_over_start(seconds, SETTING) == 1
    seconds[1, -8:] = 1.2
    assert end_over_start(seconds, SETTING) == pytest.approx(1.2)
