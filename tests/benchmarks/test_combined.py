"""All three methods at once beside others: real processes, seconds of work for a second of speech, and the gates."""

from pathlib import Path

import pytest
from benchmarks.combined import EVERYBODY, GENAI, RATE, TOGETHER, main, show
from benchmarks.peers.__main__ import saved
from benchmarks.peers.contenders import ENTRIES
from benchmarks.peers.rounds import Row

from tests.tiny import hf_config


def test_a_patch_is_counted_as_its_tokens(tmp_path: Path, capsys) -> None:
    only = ["--only", TOGETHER, "ours-int4", "growing-fp32", "--points", "120", "300"]
    run = tmp_path / "run.json"
    config = hf_config(vocab_size=6600, num_hidden_layers=4)
    assert main([*only, "--rounds", "2", "--steps", "3", "--cache", str(tmp_path), "--json", str(run)], config) == 0
    rows, _ = saved(run)
    assert [(row.error, row.tokens) for row in rows.values()] == [("", 4), ("", 1), ("", 1)]
    assert rows[TOGETHER].agrees is None and rows["growing-fp32"].agrees > 0.9  # type: ignore[operator]
    assert all(list(row.steps) == [120, 300] for row in rows.values())
    assert all("decoder.onnx" in names(tmp_path / "bundles" / name) for name in rows)
    heads, _, *lines = capsys.readouterr().out.splitlines()
    assert "a second of speech at 120 tokens" in heads
    assert [line.split(" | ")[0] for line in lines[:3]] == [f"| {ENTRIES[name].title}" for name in rows]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(("short", "long", "met"), [(4.5, 11.0, True), (4.4, 11.0, False), (4.5, 10.9, False)])
def test_gates(capsys, short: float, long: float, met: bool) -> None:
    rows = {TOGETHER: Row(steps={384: [0.002] * 3, 6000: [0.004] * 3}, peaks={384: 3_000_000}, size=2_000_000)}
    rows[GENAI] = Row(steps={384: [0.002 * short] * 3, 6000: [0.004 * long] * 3}, error="read: a | b")
    assert show(rows) is met
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"| {ENTRIES[TOGETHER].title} | {RATE * 0.002:.3f} s | {RATE * 0.004:.3f} s | 3 | 2 |"
    assert f"{ENTRIES[GENAI].title}: **read: a / b** | {0.1 * short:.3f} s ({short:.1f} ×)" in lines[3]
    assert [line[:4] for line in lines[-2:]].count("MISS") == (not met)
    assert set(rows) < set(EVERYBODY)
