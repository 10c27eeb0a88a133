"""Half depth: what is timed says what torch says, the gate, and parameters counted by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import pruned, pruned_memory, pruned_parameters
from benchmarks.pruned import FULL, HALF, Found, Setting, main, report, with_voice
from benchmarks.pruned_parameters import LLASA_1B, Counted, count, implied

from sottovoce.export.parity import reference_logits
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.config import DecoderConfig
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from tests.tiny import hf_config

SETTING = Setting(hf_config(num_hidden_layers=4), steps=6, runs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pruned")


@pytest.fixture(scope="module")
def bundles(folder: Path, tiny_bundle: Path) -> dict[str, Path]:
    return pruned.make_bundles(SETTING, load_bundle(tiny_bundle, threads=1), folder)


def test_half_is_every_other_layer_of_the_full_one(folder: Path, bundles: dict[str, Path], tiny_bundle: Path) -> None:
    full, half = (Checkpoint.open(folder / depth).load() for depth in (FULL, HALF))
    assert (full.config.layers, half.config.layers) == (4, 2)
    for mine, theirs in zip(half.model.layers, full.model.layers[::2], strict=True):
        assert all((mine.state_dict()[name] == value).all() for name, value in theirs.state_dict().items())
    reference = load_bundle(tiny_bundle, threads=1)
    prefix, tokens = list(range(7)), list(range(20))
    for depth, decoder in ((FULL, full), (HALF, half)):
        bundle = with_voice(load_bundle(bundles[depth], threads=1), reference)
        assert bundle.manifest.cache.groups[0] == replace(
            reference.manifest.cache.groups[0], layers=decoder.config.layers
        )
        stream = Stream(bundle)
        said = [np.array(stream.prefill(prefix)), *(np.array(stream.step(token)) for token in tokens)]
        expected = reference_logits(decoder, prefix, tokens, 12, bundle.token_ids.tolist())
        assert np.corrcoef(np.stack(said).ravel(), expected.ravel())[0, 1] > 0.99


def test_main_times_both_in_turns(
    bundles: dict[str, Path], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(pruned, "make_bundles", lambda setting, reference, folder: bundles)
    order: Any = []
    step = Stream.step
    monkeypatch.setattr(
        Stream, "step", lambda self, token: order.append(len(self.cache.buffers) // 2) or step(self, token)
    )
    for limit, status in ((0.0, 0), (1e9, 1)):
        order.clear()
        monkeypatch.setattr(pruned, "RATIO", limit)
        assert main([str(tiny_bundle)], SETTING) == status
        assert order[:12] == [4, 2] * 6
        assert len(order) > 2 * 12  # utterances followed
    said = capsys.readouterr().out
    assert "  full: step" in said and "  half: step" in said and "MISS step full / half" in said


def test_the_gate_is_the_median_of_ratios_run_by_run(bundles: dict[str, Path], capsys) -> None:
    profile = pruned.profile_bundle(bundles[HALF], runs=1, threads=1)
    full = Found(np.array([[2.0, 2.0], [1.0, 1.0], [9.0, 9.0]]), np.full(3, 0.6), profile)
    half = Found(np.ones((3, 2)), np.full(3, 0.4), profile)
    assert report({FULL: full, HALF: half})
    said = capsys.readouterr().out
    assert "median of runs: 2.00" in said and "1.50× as fast; peak +0.0 %" in said
    assert not report({FULL: replace(full, steps=full.steps / 2), HALF: half})


def test_parameters_by_hand() -> None:
    found = count(hf_config(num_hidden_layers=4))
    # q, k, v with biases, o; gate, up, down; two norms
    layer = 32 * 32 + 32 + 2 * (32 * 16 + 16) + 32 * 32 + 3 * 32 * 48 + 2 * 32
    table = hf_config()["vocab_size"] * 32
    assert found == Counted((layer,) * 4, table, 4 * layer + table + 32, 2 * layer + table + 32)
    assert found.cut == pytest.approx(100 * 2 * layer / found.whole)
    assert found.cut_without_embeddings == pytest.approx(100 * 2 * layer / (4 * layer + 32))


def test_the_models_of_the_paper(capsys) -> None:
    assert pruned_parameters.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["CosyVoice", "2", "24", "14.9"] and "−39.7 %" in lines[1]
    assert lines[2].split()[:3] == ["LLaSA-1B", "16", "60.8"] and "−23.5 %" in lines[2]
    assert DecoderConfig.from_hf(LLASA_1B).head_dim == 64
    assert implied("x", Counted((10, 10), 10, 30, 20), 25.0) == (
        "x: +8.3 points from the paper, whose cut implies a base of 0 M parameters"
    )


def test_memory_of_both_depths(capsys) -> None:
    setting = pruned_memory.Setting(hf_config(num_hidden_layers=4), (2, 12), 7, 12)
    assert pruned_memory.main([], {"tiny": setting}) == 0
    full, half, cut = capsys.readouterr().out.splitlines()[1:]
    whole = count(setting.config)
    assert full.split()[:3] == ["tiny", "full", f"{whole.whole / 1e6:.1f}"] and half.split()[1] == "half"
    assert f"{100 * (whole.half / whole.whole - 1):+.1f} %" in cut
