"""The demo from end to end on a tiny voice."""

from dataclasses import replace
from pathlib import Path

import soundfile

from sottovoce import demo
from sottovoce.__main__ import main
from sottovoce.export.verify import verify_bundle


def test_the_demo_speaks_and_compares(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    windowed = tmp_path / "windowed"
    assert main(["compress", "window", str(tiny_voice), "-o", str(windowed), "--window", "64"]) == 0
    assert main(["demo", "--voices", str(tiny_voice), str(windowed), "-o", str(tmp_path / "demo")]) == 0
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    recordings = [f"{b}-{s}-{n}.wav" for b in (tiny_voice.name, "windowed") for s in ("ada", "bob") for n in (1, 2, 3)]
    assert names == sorted([tiny_voice.name, "windowed", *recordings])
    assert all(soundfile.info(tmp_path / "demo" / name).frames for name in recordings)
    (row,) = [
        line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["bundle"] and "windowed" in line
    ]
    assert row.split() == ["bundle", tiny_voice.name, "windowed"]


def test_a_bundle_that_fails_its_gates_is_status_1(tiny_voice: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def failing(*args):
        return replace(verify_bundle(*args), passed=False)

    monkeypatch.setattr(demo, "verify_bundle", failing)
    assert main(["demo", "--voices", str(tiny_voice), "-o", str(tmp_path / "demo")]) == 1
    assert "failed" in capsys.readouterr().out


def test_without_a_voice_it_says_where_to_run(tmp_path: Path, capsys) -> None:
    assert main(["demo", "--voices", str(tmp_path / "none")]) == 2
    assert "checkout" in capsys.readouterr().err
