"""The search for the smallest bundle that fits: what it takes, what it refuses, and that it goes on."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sottovoce import export_fit
from sottovoce.__main__ import main
from sottovoce.devices.table import find_device
from sottovoce.fit_judge import ByWords
from sottovoce.runtime.manifest import read_manifest


def export(voice: Path, output: Path, *options: str) -> int:
    fixed = ["--window", "12", "--prefix", "100", "--threads", "1"]
    return main(["export", str(voice), "-o", str(output), "--fit", "raspberry-pi-5-4gb", *fixed, *options])


def test_the_first_that_stays_near_is_taken(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    assert export(tiny_voice, tmp_path / "bundle", "--weights", "fp32", "--max-kl", "1e-9") == 0
    tried = json.loads((tmp_path / "bundle.tried.json").read_text())
    assert [row["cache"] for row in tried] == list(export_fit.CACHES[: len(tried)])
    assert len(tried) > 1
    assert all(row["problem"] == "too far from the voice" and row["loss"] > 1e-9 for row in tried[:-1])
    assert tried[-1]["problem"] == ""
    assert read_manifest(tmp_path / "bundle").cache.groups[0].dtype == tried[-1]["cache"]
    assert not list(tmp_path.glob(".*"))
    out = capsys.readouterr().out
    assert "taken" in out
    assert "measured here: peak" in out
    assert export(tiny_voice, tmp_path / "bundle") == 2  # it is there


def test_a_device_that_is_too_small_and_a_search_that_goes_on(
    tiny_voice: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    small = replace(find_device("raspberry-pi-5-4gb"), ram=0.05)
    monkeypatch.setattr(export_fit, "find_device", lambda _: small)
    assert export(tiny_voice, tmp_path / "bundle", "--weights", "fp32", "--cache", "fp32") == 1
    said = capsys.readouterr()
    assert "does not fit" in said.out
    assert "none of 1 candidates" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.tried.json"]
    monkeypatch.setattr(export_fit, "export_bundle", lambda *_, **__: pytest.fail("made again"))
    assert export(tiny_voice, tmp_path / "bundle", "--weights", "fp32", "--cache", "fp32") == 1


def test_options_that_do_not_go_with_a_search(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    for options in (
        ["--dry-run"],
        ["--block", "32"],
        ["--block", "0"],
        ["--target", "coreml"],
        ["--decoder-only"],
        ["--flavour", "portable"],
        ["--codec", "int8"],
    ):
        assert export(tiny_voice, tmp_path / "bundle", *options) == 2
        assert f"{options[0]} does not go with --fit" in capsys.readouterr().err
    assert export(tiny_voice, tmp_path / "bundle", "--windows", "8") == 2
    assert "--max-wer-loss" in capsys.readouterr().err
    assert main(["export", str(tiny_voice), "--fit", "raspberry-pi-5-4gb"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_of_formats_and_windows_comes_first(tiny_voice: Path) -> None:
    parser = argparse.ArgumentParser()
    export_fit.add_arguments(parser)
    fixed = [str(tiny_voice), "--fit", "x", "--max-wer-loss", "1", "--weights", "int8"]
    asked = export_fit.requests(parser.parse_args([*fixed, "--windows", "full", "12", "8"]))
    found = [(request.cache, request.window) for request in asked]
    short = [("int8", 8), ("int8", 12), ("fp16", 8), ("fp16", 12), ("fp32", 8), ("fp32", 12)]
    assert found == [*short, ("int8", "full"), ("fp16", "full"), ("fp32", "full")]


def test_a_voice_is_heard_and_a_search_by_ear_goes_on(tiny_voice: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Random weights say noise, of which the judge hears as little by torch as by a bundle: any candidate will do."""
    pytest.importorskip("pocketsphinx")
    (tmp_path / "sentences.txt").write_text("Hello there.\n")
    options = ["--max-wer-loss", "100", "--sentences", str(tmp_path / "sentences.txt"), "--weights", "fp32"]
    assert export(tiny_voice, tmp_path / "bundle", *options, "--cache", "fp32", "--windows", "10", "12") == 0
    (row,) = json.loads((tmp_path / "bundle.tried.json").read_text())
    assert (row["window"], row["search"].split()[-1]) == ("10", "WER")
    assert row["loss"] is not None
    assert read_manifest(tmp_path / "bundle").cache.groups[0].window == 10
    assert len(list((tmp_path / "bundle.heard").iterdir())) == 2
    assert "WER" in capsys.readouterr().out
    judge = ByWords(100, tiny_voice, tmp_path / "sentences.txt", tmp_path / "bundle.heard", 1)
    monkeypatch.setattr("sottovoce.compress.evaluate.evaluator.Evaluator.row", lambda *_: pytest.fail("heard again"))
    assert judge.loss(tmp_path / "bundle") == row["loss"]
