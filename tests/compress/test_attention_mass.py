"""Attention by distance, against maps that transformers makes, and against what the shares must add up to."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sottovoce.compress import attention_mass as module
from sottovoce.compress.attention_mass import Row, attention_mass
from sottovoce.models.checkpoint import Checkpoint
from tests.models.shapes import CONFIGS, tiny_decoder
from tests.models.test_checkpoint import write_folder

IDS = tuple(torch.randint(0, 97, (60,), generator=torch.Generator().manual_seed(5)).tolist())
ROWS = [Row(IDS[:40], 12), Row(IDS[7:60], 20), Row(IDS[3:20], 16)]


def shares_by_hand(maps: list[list[torch.Tensor]], rows: list[Row], windows: list[int]) -> list[tuple[float, float]]:
    """Prompt share and coverage of each window, from whole maps [heads, T, T] of rows and layers, key by key."""
    found = []
    for window in windows:
        prompt = covered = count = 0.0
        for row, layers in zip(rows, maps, strict=True):
            for attention in layers:
                for i in range(row.prefix, len(row.ids)):
                    mean = attention[:, i].double().mean(0)
                    prompt += float(mean[: row.prefix].sum())
                    covered += float(mean[: row.prefix].sum() + mean[max(row.prefix, i - window + 1) : i + 1].sum())
                    count += 1
        found.append((prompt / count, covered / count))
    return found


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen3_head_dim", "gpt2_tied"])
def test_shares_are_those_of_transformers_maps(tmp_path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "QUERIES", 7)
    folder = write_folder(tmp_path, name)
    oracle = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        maps = [[m[0] for m in oracle(torch.tensor([r.ids]), output_attentions=True).attentions] for r in ROWS]
    windows = [1, 4, 9, 100]
    mass = attention_mass(Checkpoint.open(folder).load(), ROWS)
    assert mass.tokens == 28 + 33 + 1
    for window, (prompt, coverage) in zip(windows, shares_by_hand(maps, ROWS, windows), strict=True):
        assert mass.prompt == pytest.approx(prompt, abs=1e-6)
        assert mass.coverage(window) == pytest.approx(coverage, abs=1e-6)
        assert mass.local(window) == pytest.approx((coverage - prompt) / (1 - prompt), abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_shares_add_up_to_one_and_a_window_covers_all_it_lets_see(name: str) -> None:
    decoder = tiny_decoder(name)
    full, windowed = attention_mass(decoder, ROWS), attention_mass(decoder, ROWS, window=6)
    for mass in (full, windowed):
        assert mass.prompt + mass.generated.sum() == pytest.approx(1, abs=1e-5)
    assert windowed.coverage(6) == pytest.approx(1, abs=1e-5)
    assert np.all(windowed.generated[6:] == 0)
    assert full.coverage(6) < 0.99
