"""The table of weight formats: every format runs, and each gate can be missed."""

import pytest
from benchmarks.quantized import FORMATS, SHARES, main, report, rows, sweep

from tests.models.shapes import CONFIGS


def test_every_format_takes_its_turn(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("benchmarks.quantized.FORMATS", {name: FORMATS[name] for name in ("fp32", "int4, block 32")})
    monkeypatch.setattr("benchmarks.quantized.DEFAULTS", ("int4, block 32",))
    config = CONFIGS["qwen2_tied"] | {"vocab_size": 300}
    assert main(["--rounds", "0", "--folder", str(tmp_path)], config) == 0
    assert not capsys.readouterr().out
    made = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))]
    assert main(["--rounds", "1", "--steps", "3", "--folder", str(tmp_path)], config) in (0, 1)
    said = capsys.readouterr().out
    assert (
        said.count("| fp32 |") == said.count("| int4, block 32 |") == said.count("| int4, block 32, small pages |") == 1
    )
    assert made == [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))]


def figures(**values: float) -> dict[str, dict[str, float]]:
    """Steps of 1 s but for those given by format, peaks of 80 MB and 0.5 s to load; a sweep of 100 bytes/s."""
    rest = {"peak": 80e6, "hashes": 0.2, "decoder": 0.3} | values
    made = {name: {**rest, "step": values.get(name[:4], 1.0)} for name in rows()}
    return {**made, "sweep": {"rate": 100.0}}


@pytest.mark.parametrize(
    ("steps", "missed"),
    [
        ({"fp32": 4.0, "int8": 1.0, "int4": 1.0}, []),
        ({"fp32": 4.0, "int8": 4.0, "int4": 1.0}, ["no quantized format", "int8:"]),
        ({"fp32": 4.0, "int8": 1.0, "int4": 2.0}, ["int4: 45% of the sweep"]),
        ({"fp32": 4.0, "peak": 91e6}, ["int4: peak"]),
        ({"fp32": 4.0, "hashes": 0.5}, ["int4: load"]),
    ],
)
def test_gates(capsys, steps: dict[str, float], missed: list[str]) -> None:
    sizes = dict.fromkeys(FORMATS, 90)
    assert report(figures(**steps), sizes) == (not missed)
    lines = [line.removeprefix("MISS ") for line in capsys.readouterr().out.splitlines() if line.startswith("MISS")]
    assert len(lines) == len(missed)
    assert all(line.startswith(start) for line, start in zip(lines, missed, strict=True))
    assert set(SHARES) == {"int8", "int4"}


def test_the_sweep_reads_memory() -> None:
    assert 1e8 < sweep(1, tries=1) < 1e12
