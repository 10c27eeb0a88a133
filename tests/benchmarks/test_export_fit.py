"""The benchmark types the command, and measures what it chose."""

from pathlib import Path

import pytest
from benchmarks import export_fit


def test_it_searches_and_measures(tiny_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(export_fit, "REFERENCE", tiny_voice)
    monkeypatch.setitem(export_fit.SEARCHES, "reference", {"raspberry-pi-5-4gb": 10.0})
    assert export_fit.main(["--only", "reference", "--folder", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "taken" in said and "measured here: peak" in said and "ok   peak" in said
    # Nothing is as near as that: no candidate is taken.
    monkeypatch.setitem(export_fit.SEARCHES, "reference", {"raspberry-pi-5-8gb": -1.0})
    assert export_fit.main(["--only", "reference", "--folder", str(tmp_path)]) == 1
    assert "MISS nothing was chosen for raspberry-pi-5-8gb" in capfd.readouterr().out
