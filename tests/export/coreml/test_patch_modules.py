"""The four functions of a patch voice before any conversion, driven over ring wraps beside torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sottovoce.export.coreml import patch_drive, patch_modules
from sottovoce.export.coreml.decoder import decoder_functions, write_tables
from sottovoce.export.coreml.patch_drive import CorePatchDriver
from sottovoce.export.coreml.patch_layout import PatchLayout
from sottovoce.export.coreml.patch_verify import full_prefix, patch_cases, patch_reference
from sottovoce.export.coreml.verify import CoreReport, check_decoder, report
from sottovoce.export.coreml.written import Written
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from tests.export.coreml.voices import Eager, random_decoder
from tests.models.patches import PROMPT

PREFIX, WINDOW = 23, 9
IDS = [*range(10, 61), 83]
NETS: dict[str, dict[str, Any]] = {
    "four tokens": {},
    "two tokens": {"patch": 2},
    "six tokens": {"patch": 6},
    "means alone": {"compressor": "mean"},
    "no speaker": {"speaker": "none"},
    "a short window": {"window": 3},
    "more than a line of columns and slots": {"patch": 33, "window": 40},
}


def random_patches(family: str = "qwen2", **changes: Any) -> PatchDecoder:
    """Nets with opinions around a decoder with opinions."""
    backbone = random_decoder(family, vocab_size=84)
    config = PatchConfig.of(backbone.config, 4)
    patches = PatchDecoder(backbone, replace(config, **changes), PROMPT).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for net in (patches.compressor, patches.extractor):
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.12, generator=generator)
    return patches


def judged(patches: PatchDecoder, folder: Path) -> CoreReport:
    """What verification says of the modules: more than four rounds of the ring, a full prefix, no clip, one word."""
    layout = PatchLayout(patches.backbone.config, PREFIX + WINDOW, len(IDS), 8, False, patches.config)
    functions = decoder_functions(patches, layout, IDS, "fp16")
    write_tables(patches, 40 * (4 + patches.config.patch) + 120, folder)
    head = patches.backbone.head[torch.tensor(IDS)]
    random, size = np.random.default_rng(0), patches.config.patch
    said = random.integers(10, 60, 27).tolist()
    real = (80, 1, 2, 81, *said[:21], 82)
    full = full_prefix(list(range(10)), said, PREFIX, size)
    cases = patch_cases(real, full, said, 4 * WINDOW + 3, 9, size)
    cases += [replace(cases[1], name=name, prefix=prefix) for name, prefix in (("no clip", (80, 3, 82)), ("one", (5,)))]
    driver = CorePatchDriver(folder, layout, PREFIX, WINDOW, patches.codes, Eager(functions))
    outcomes = check_decoder(driver, patches, head, Written(patches, head, 0.0), cases, IDS, patch_reference)
    return report(outcomes, Written(patches, head, 0.0), "fp16", WINDOW, True)


@pytest.mark.parametrize("name", NETS)
def test_the_functions_say_what_torch_says(name: str, tmp_path: Path) -> None:
    found = judged(random_patches(**NETS[name]), tmp_path)
    assert found.failures == ()
    # What is left is the host's: tables, bias and speaker in half precision.
    assert max(found.logit_error, found.prefill_error, found.cache_error) < 2e-3
    assert found.wraps > 4


def test_learned_positions_are_the_hosts(tmp_path: Path) -> None:
    shape = {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512, "n_inner": 96}
    backbone = random_decoder("gpt2", vocab_size=84, activation_function="gelu_new", **shape)
    patches = PatchDecoder(backbone, PatchConfig.of(backbone.config, 4), PROMPT).eval().requires_grad_(False)
    assert judged(patches, tmp_path).failures == ()


def test_a_full_prefix_is_full() -> None:
    prefix = full_prefix([1, 2], list(range(10, 31)), 9, 4)
    codes = [token for token in prefix if token >= 10]
    assert len(prefix) - len(codes) + -(-len(codes) // 4) == 9
    assert len(codes) % 4
    assert prefix[-1] < 10


def test_a_dropped_write_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the extractor that nothing is written to."""

    class Forgetful(patch_modules.ExtractPass):
        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = super().forward(*inputs)
            return (*made[:-1], inputs[-1])

    monkeypatch.setattr("sottovoce.export.coreml.decoder.ExtractPass", Forgetful)
    found = judged(random_patches(), tmp_path)
    assert any("caches" in line for line in found.failures)


def test_a_speaker_that_is_not_told_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {"speaker": np.zeros((1, 64, 1, 1), np.float16)}
    monkeypatch.setattr(patch_drive.CorePatchDriver, "_more", lambda _, name: silent if name == "decode" else {})
    assert "logits differ" in judged(random_patches(), tmp_path).failures[0]
