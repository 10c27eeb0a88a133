"""The whole way of a patch voice as a user goes it: taught, exported, looked at, heard, measured."""

import json
from pathlib import Path

import onnx
import pytest
import soundfile

from sottovoce.__main__ import main
from sottovoce.export import plan
from tests.compress.corpora import coded_corpus, toy_recipe
from tests.compress.test_patch_voice import CHANGES


def test_compress_export_say(
    tiny_voice: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    graphs = {name: onnx.load(tiny_bundle / name) for name in ("codec_decoder.onnx", "codec_encoder.onnx")}
    monkeypatch.setattr(plan, "codec_graphs", lambda *_: graphs)
    corpus, recipe = coded_corpus(tmp_path / "corpus", 12), toy_recipe("patch", CHANGES, tmp_path)
    monkeypatch.chdir(tmp_path)
    taught = ["--distill", str(corpus), "--recipe", str(recipe), "--steps", "4", "--threads", "1"]
    assert main(["compress", "patch", str(tiny_voice), "-o", "patched", "--patch", "3", *taught]) == 0
    assert main(["export", "patched", "-o", "bundle", "--weights", "fp32", "--window", "5", "--threads", "1"]) == 0
    assert "identical greedy tokens" in capsys.readouterr().out
    assert main(["inspect", "bundle"]) == 0
    said = capsys.readouterr().out
    assert "window 5 patches" in said
    assert "held by the graph" in said and "tokens to a step" in said
    for name in ("one.wav", "two.wav"):
        assert main(["say", "bundle", "Hello there.", "--seed", "3", "--json", "-o", name]) == 0
        told = json.loads(capsys.readouterr().out)
    assert Path("one.wav").read_bytes() == Path("two.wav").read_bytes()
    (sentence,) = told["sentences"]
    drawn = sentence["tokens"] + (sentence["stopped"] == "stop token")
    assert sentence["runs"] == -(-drawn // 3)
    assert soundfile.info("one.wav").frames == 160 * sentence["tokens"] > 0
    assert main(["profile", "bundle", "--runs", "1", "--threads", "1", "-o", "report.json"]) == 0
    report = json.loads(Path("report.json").read_text())
    manifest = json.loads(Path("bundle/manifest.json").read_text())
    assert report["memory"]["cache"] == manifest["cache"]["bytes"]
    assert main(["verify", "bundle", "--against", "patched", "--threads", "1"]) == 0
