"""The exported graph against torch: every family, weight format and window, in one table."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sottovoce.export import cache_scales, matrices, parity
from sottovoce.export.cache_scales import random_utterances
from sottovoce.export.decoder import DATA, GRAPH, DecoderOptions, DecoderParts, export_decoder
from sottovoce.export.drive import Driver
from sottovoce.export.head import ids_of
from sottovoce.export.parity import Case, check_decoder, divergence, random_cases
from sottovoce.export.weight_recipe import WeightRecipe
from sottovoce.export.written_parity import check_written
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.runtime.session import NO_TILES
from tests.models.shapes import CONFIGS, tiny_decoder

PREFIX = 12
HEAD = ((3, 40), (50, 51), (60, 90))


def export(
    folder: Path, name: str, weights: Any = "fp32", window: int = 9, head: tuple | None = HEAD, cache: str = "fp32"
) -> tuple[Decoder, DecoderParts]:
    """A tiny decoder and the parts of its graph in `folder`."""
    decoder = tiny_decoder(name)
    heard = random_utterances(ids_of(HEAD), PREFIX, window)
    options = DecoderOptions(weights, PREFIX, window, 160, head, cache, heard)  # type: ignore[arg-type]
    return decoder, export_decoder(decoder, options, folder)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("weights", "window", "head"),
    [("fp32", 9, HEAD), ("fp32", 2, None), ("fp32", 31, HEAD), ("int8", 9, HEAD), ("int4", 9, HEAD)],
)
def test_graph_equals_torch(tmp_path: Path, name: str, weights: str, window: int, head: tuple | None) -> None:
    decoder, parts = export(tmp_path, name, weights, window, head)
    report = check_decoder(decoder, tmp_path, parts)
    assert report.wraps >= 4
    assert report.logits_std > 0.3
    assert report.failures == ()
    if weights == "fp32":
        assert report.relative_error <= 2e-5
        assert report.greedy_identical
    else:
        assert check_written(decoder, tmp_path, parts).failures == ()


def test_a_long_head_in_pieces_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the embedding's own bytes, however many products read them."""
    said, sizes = [], []
    for rows in (2048, 20):
        monkeypatch.setattr(matrices, "HEAD_ROWS", rows)
        folder = tmp_path / str(rows)
        folder.mkdir()
        _, parts = export(folder, "qwen2_tied", "int8")
        nodes = [node.name for node in onnx.load(folder / GRAPH, load_external_data=False).graph.node]
        pieces = sum(name.startswith("lm_head.") and name.endswith(".out") for name in nodes)
        assert pieces == {2048: 3, 20: 2 + 1 + 2}[rows]
        driver = Driver(folder / GRAPH, parts.cache.groups[0], 1)
        said.append([driver.prefill([*range(5)]), *(driver.step(token) for token in range(3))])
        sizes.append(parts.sizes[DATA])
    np.testing.assert_array_equal(said[0], said[1])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_half_cache_is_near_torch(tmp_path: Path, name: str) -> None:
    decoder, parts = export(tmp_path, name, cache="fp16")
    report = check_decoder(decoder, tmp_path, parts)
    assert report.failures == ()
    assert report.relative_error > 1e-5
    assert parts.cache.bytes == 2 * 2 * 2 * decoder.config.kv_heads * decoder.config.head_dim * 21
    decoder.model.layers[1].mlp.down_proj.weight.mul_(-1)
    assert "of their deviation" in check_decoder(decoder, tmp_path, parts).failures[0]


def test_half_cache_under_quantized_weights(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "gpt2_tied", "int8", cache="fp16")
    report = check_written(decoder, tmp_path, parts)
    assert report.failures == ()
    assert parts.min_onnxruntime == "1.23"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("weights", "window"), [("fp32", 9), ("fp32", 148), ("int8", 9)])
def test_byte_cache_is_torchs_rounded_cache(tmp_path: Path, name: str, weights: str, window: int) -> None:
    decoder, parts = export(tmp_path, name, weights, window, cache="int8")
    assert parts.cache.bytes == 2 * 2 * decoder.config.kv_heads * decoder.config.head_dim * (PREFIX + window)
    assert parts.min_onnxruntime == "1.27"
    report = check_written(decoder, tmp_path, parts)
    assert report.failures == ()
    assert report.cache_error is not None
    assert 1e-3 < report.cache_error < 0.06
    assert check_decoder(decoder, tmp_path, parts).failures == ()


@pytest.mark.parametrize(("cache", "window"), [("fp32", 9), ("fp32", 148), ("int8", 9), ("int8", 148)])
def test_attention_in_tiles_is_torchs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, window: int
) -> None:
    """As the engine does where nobody tells it otherwise, and on ARM."""
    monkeypatch.setenv(NO_TILES, "0")
    decoder, parts = export(tmp_path, "llama3_rope", "fp32" if cache == "fp32" else "int8", window, cache=cache)
    check = check_decoder if cache == "fp32" else check_written
    assert check(decoder, tmp_path, parts).failures == ()


def test_byte_cache_forgets_garbage(tmp_path: Path) -> None:
    _, parts = export(tmp_path, "llama3_rope", cache="int8")
    runs = []
    for garbage in (1e3, 0.0):
        driver = Driver(tmp_path / "decoder.onnx", parts.cache.groups[0], garbage=garbage)
        runs.append(np.stack([driver.prefill([5, 6, 7]), *(driver.step(token) for token in range(20))]))
    np.testing.assert_array_equal(runs[0], runs[1])


@pytest.mark.parametrize(("headroom", "says"), [(0.2, "rounding keys and values"), (40.0, "rounding keys and values")])
def test_wrong_scales_fail_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headroom: float, says: str
) -> None:
    monkeypatch.setattr(cache_scales, "HEADROOM", headroom)
    decoder, parts = export(tmp_path, "llama3_rope", cache="int8")
    assert says in check_written(decoder, tmp_path, parts).failures[0]


def test_a_graph_with_other_scales_than_the_file_fails_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, parts = export(tmp_path, "llama3_rope", cache="int8")
    monkeypatch.setattr(cache_scales, "_rounded", lambda x, scale: (x / scale).floor() * scale)
    assert "on the written weights" in check_written(decoder, tmp_path, parts).failures[0]


def test_chunked_prefill_and_any_garbage(tmp_path: Path) -> None:
    _, parts = export(tmp_path, "qwen3_head_dim")
    prefix, tokens = [5, 6, 7, 8, 9, 10, 11], [20, 21, 22] * 12
    runs = []
    for garbage, chunk in ((1e3, 7), (0.0, 7), (-1e4, 3)):
        driver = Driver(tmp_path / "decoder.onnx", parts.cache.groups[0], garbage=garbage)
        logits = [driver.prefill(prefix[i : i + chunk]) for i in range(0, len(prefix), chunk)][-1:]
        runs.append(np.stack(logits + [driver.step(token) for token in tokens]))
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_allclose(runs[2], runs[0], atol=1e-5)


def test_altered_weight_fails_the_gate(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied")
    decoder.model.norm.weight[3] += 0.01
    assert "logits differ" in check_decoder(decoder, tmp_path, parts).failures[0]


def test_wrong_window_fails_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, parts = export(tmp_path, "llama3_rope")
    monkeypatch.setattr(parity, "wand_mask", lambda length, prefix, window: wand_mask(length, prefix, window - 1))
    assert "logits differ" in check_decoder(decoder, tmp_path, parts).failures[0]


def test_divergence_is_kullback_and_leiblers() -> None:
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]) + 3, np.log([[0.25, 0.75], [0.9, 0.1]]) - 2
    assert divergence(p, q) == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(2 / 3)))
    assert np.isnan(divergence(p, q * np.nan))


@pytest.mark.parametrize(
    ("weights", "asked"), [("int8", 98), ("int4", 90), (WeightRecipe("int4", head="int4"), 75), ("fp16", 98)]
)
def test_quantized_top1_gate_is_for_trained_voices(tmp_path: Path, weights, asked: int) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied", weights)
    decoder.model.layers[0].mlp.down_proj.weight.mul_(-1)
    assert check_decoder(decoder, tmp_path, parts).failures == ()
    (line,) = check_decoder(decoder, tmp_path, parts, trained=True).failures
    assert line.startswith("top-1 agreement")
    assert f"at least {asked}%" in line
    assert ("--calibrate" in line) == (weights != "fp16")


@pytest.mark.parametrize("trained", [False, True])
def test_quantized_logits_must_be_finite(tmp_path: Path, trained: bool) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied", "int8")
    decoder.model.norm.weight[0] = float("nan")
    assert check_decoder(decoder, tmp_path, parts, trained=trained).failures == ("logits are not finite",)


def test_quantized_gate_needs_something_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied", "int8")
    monkeypatch.setattr(parity, "MARGIN", 1e9)
    assert "no step" in check_decoder(decoder, tmp_path, parts, trained=True).failures[0]


def test_full_window_is_driven_as_far_as_it_goes(tmp_path: Path) -> None:
    decoder = tiny_decoder("qwen2_tied")
    parts = export_decoder(decoder, DecoderOptions("fp32", PREFIX, 48, max_position=60), tmp_path)
    cases = random_cases(parts)
    assert [len(case.prefix) + case.length for case in cases] == [60] * 4
    assert check_decoder(decoder, tmp_path, parts).failures == ()
    assert random_cases(parts, max_steps=5)[0].length == 5


def test_a_ring_that_did_not_go_round_fails_the_gate(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied")
    few = random_cases(parts, max_steps=20)
    (line,) = check_decoder(decoder, tmp_path, parts, few).failures
    assert line == "the ring went round 2.5 times, 4.0 are asked for"


@pytest.mark.parametrize(
    ("steps", "lengths"), [(4 * 34, [34, 34, 34, 34]), (130, [24, 24, 34, 24]), (3 * 24 + 26, [24, 24, 26, 24])]
)
def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, lengths: list[int]) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied")
    monkeypatch.setattr(parity, "WORK", (steps + 0.5) * parts.sizes["decoder.onnx.data"])
    cases = random_cases(parts)
    assert [case.length for case in cases] == lengths
    assert check_decoder(decoder, tmp_path, parts, cases).failures == ()  # what WORK does not allow is not asked for
    assert check_decoder(decoder, tmp_path, parts, cases).wraps == max(lengths) / 8
    if min(lengths) < max(lengths):
        assert "went round" in check_decoder(decoder, tmp_path, parts, cases[:1]).failures[0]


def test_greedy_tokens_are_torchs(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "llama_mha_biases")
    case = Case("greedy", (4, 5, 6), None, 40)
    assert check_decoder(decoder, tmp_path, parts, [case]).greedy_identical
    decoder.lm_head.weight[30:40] *= 1.5
    assert not check_decoder(decoder, tmp_path, parts, [case]).greedy_identical
