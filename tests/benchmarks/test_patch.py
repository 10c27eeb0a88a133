"""Patched beside unpatched: both graphs speak, in turns, one run for each patch, and the gates are what they say."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import patch
from benchmarks.patch import PAPER, PATCHED, PLAIN, Found, Setting, main, make_bundles, report
from benchmarks.patch_source import PREFIX, PROMPT, SAMPLING, Turns, open_source

from sottovoce.models.config import DecoderConfig
from sottovoce.models.patch.config import PatchConfig, StackConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.utterance import Utterance
from tests.tiny import hf_config

HF = hf_config(vocab_size=6600)
STACK = StackConfig(1, 2, 16, 1, 48)
SETTING = Setting(HF, PatchConfig(4, STACK, replace(STACK, layers=2)), tokens=24, processes=2)


def test_main_times_both_and_counts_the_runs(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """A short utterance has 7 slots beside 25: over the gate."""
    monkeypatch.setitem(patch.RATIOS, "int8", 0.0)
    assert main(["--weights", "int8"], SETTING) == 1
    said = capsys.readouterr().out
    assert "ok   runs of the graph per patch: 1.000" in said and "ok   time per token" in said
    assert "MISS slots of what is said, patched / plain: 0.280" in said
    assert "each further token of a run: " in said
    assert "  int8 plain: " in said and "4 a run" in said and "bytes read, plain / patched: " in said


def test_both_speak_from_the_same_prefix(tmp_path: Path) -> None:
    paths = make_bundles(SETTING, "fp32", tmp_path)
    for kind, size in ((PLAIN, 1), (PATCHED, 4)):
        source, counted = open_source(paths[kind])
        said = source.begin(Utterance(PREFIX, SAMPLING, 0, 99, 24))
        assert len(said) == source.size == size and source.position == (109 if size == 1 else 112)
        runs = counted.runs
        assert len(source.step()) == size and counted.runs == runs + 1


def test_the_nets_are_the_papers() -> None:
    """136.2 M parameters learn there, 64 · (in + out) of each of the backbone's matrices among them."""
    config = DecoderConfig.from_hf(PAPER.config)
    import torch

    with torch.device("meta"):
        from sottovoce.models.decoder import Decoder

        patches = PatchDecoder(Decoder(config), PAPER.patches, PROMPT)
    nets = sum(p.numel() for net in (patches.compressor, patches.extractor) for p in net.parameters())
    lora = sum(64 * sum(p.shape) for n, p in patches.backbone.named_parameters() if "_proj.weight" in n)
    assert abs(nets + lora - 136.2e6) < 0.1 * 136.2e6


def test_gates(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = (PLAIN, PATCHED)
    turns = [Turns(2.4, 1.0, 0.7, 1.0), Turns(2.4, 1.0, 0.7, 1.0), Turns(9.0, 1.0, 0.7, 1.0)]
    found = Found(
        turns, {PLAIN: 301, PATCHED: 76}, dict.fromkeys(kinds, 1), dict.fromkeys(kinds, 1), dict.fromkeys(kinds, 1.0),
        1, {1: 100, 4: 102},
    )  # fmt: skip
    assert report("int8", found, 4)
    assert not report("int4", found, 4)
    twice = [replace(turns[0], calls=1.01)]
    for change in ({"slots": {PLAIN: 301, PATCHED: 79}}, {"turns": twice}, {"peaks": {1: 100, 4: 104}}):
        assert not report("int8", replace(found, **change), 4)
