"""The table of cache sizes: measured on tiny bundles, planned for the real shapes, and its gate."""

from pathlib import Path

import pytest
import torch
from benchmarks import kv_table
from benchmarks.kv_table import SHAPES, Found, Paper, Shape, measure, report

from sottovoce.export.decoder import DecoderOptions, plan_decoder
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from tests.models.shapes import CONFIGS

TINY = {
    name: Shape(CONFIGS[config], (40, 97), 7, 20, 5, cache, Paper(0.1, 0.1, 55.0))  # type: ignore[arg-type]
    for name, config, cache in (("qwen", "qwen2_tied", "fp32"), ("gpt", "gpt2_tied", "fp16"))
}


@pytest.mark.parametrize("name", TINY)
def test_bytes_are_those_of_the_bundles_buffers(tmp_path: Path, name: str) -> None:
    found = measure(TINY[name], tmp_path)
    slot = 2 * 2 * 16 * (2 * 4 if name == "qwen" else 4 * 2)  # layers · K and V · head_dim · heads · bytes
    assert (found.full, found.window) == (slot * 27, slot * 12)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]  # bundles are large


@pytest.mark.parametrize("name", SHAPES)
def test_the_papers_reductions_follow_from_the_shapes(name: str) -> None:
    shape = SHAPES[name]
    config = DecoderConfig.from_hf(shape.config)
    with torch.device("meta"):
        decoder = Decoder(config)
    options = [
        DecoderOptions("int8", shape.prefix, window, 1000, (shape.speech,), shape.cache)
        for window in (shape.tokens, shape.window)
    ]
    full, windowed = (plan_decoder(decoder, option).cache.bytes for option in options)
    assert abs(Found(full, windowed).reduction - shape.paper.reduction) < kv_table.POINT
    assert full / 1e6 == pytest.approx(shape.paper.full, rel=0.06)
    assert windowed / 1e6 == pytest.approx(shape.paper.window, rel=0.06)
    assert shape.speech[1] == config.vocab_size


@pytest.mark.parametrize(("window", "met"), [(45, True), (47, False), (43, False)])
def test_gate(capsys, window: int, met: bool) -> None:
    assert report({"qwen": Found(100, window)}, TINY) is met
    table, verdict = capsys.readouterr().out.splitlines()[1:]
    assert table.split()[:5] == ["qwen", "7", "20", "5", "fp32"]
    assert verdict.startswith("ok" if met else "MISS")


def test_a_table_of_one_model(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(kv_table, "measure", lambda shape, folder: Found(1000, 395))
    assert kv_table.main(["--model", "Spark-TTS"]) == 0
    assert kv_table.main(["--model", "CosyVoice 2"]) == 1
    assert "MISS CosyVoice 2: 10.60 points" in capsys.readouterr().out
