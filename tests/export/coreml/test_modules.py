"""The decoder in the engine's layout against torch's own, before any conversion: every family, both cache forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sottovoce.export.coreml import modules
from sottovoce.export.coreml.codec import MANY, SlotCodec, codec_functions, state_specs
from sottovoce.export.coreml.decoder import decoder_functions, write_tables
from sottovoce.export.coreml.drive import CoreDriver
from sottovoce.export.coreml.layout import DECODE, PREFILL, Layout
from sottovoce.export.coreml.verify import CoreReport, check_decoder, report
from sottovoce.export.coreml.written import Written
from sottovoce.export.parity import Case
from sottovoce.models.decoder import Decoder
from tests.export.coreml.voices import Eager, random_decoder
from tests.tiny import tiny_codec

PREFIX, WINDOW = 20, 12
IDS = [*range(48), 50]


def judged(decoder: Decoder, folder: Path, prefill: int = 8, stateful: bool = False) -> CoreReport:
    """What verification says of the modules: a full prefix over more than four rounds of the ring, and short ones."""
    layout = Layout(decoder.config, PREFIX + WINDOW, len(IDS), prefill, stateful)
    functions = decoder_functions(decoder, layout, IDS, "fp16")
    write_tables(decoder, 100, folder)
    head = decoder.head[torch.tensor(IDS)].detach()
    written = Written(decoder, head, 0.0)
    random = np.random.default_rng(0)
    cases = [
        Case(f"prefix {count}", tuple(random.choice(IDS, count)), tuple(random.choice(IDS, steps)))
        for count, steps in ((PREFIX, 4 * WINDOW + 3), (9, 20), (1, 3))
    ]
    if stateful:  # functions of one package share their states
        for name in layout.caches():
            functions[PREFILL].module.register_buffer(name, getattr(functions[DECODE].module, name))
    driver = CoreDriver(folder, layout, PREFIX, WINDOW, Eager(functions))
    return report(check_decoder(driver, decoder, head, written, cases, IDS), written, "fp16", WINDOW, True)


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped heads, biases, tied": ("qwen2", {}),
    "one KV head each": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "four heads on two": ("qwen2", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}),
    "normalised queries and keys": ("qwen3", {}),
    "learned positions, layer norm": (
        "gpt2",
        {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512, "n_inner": 96, "activation_function": "gelu_new"},
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modules_say_what_torch_says(name: str, tmp_path: Path) -> None:
    family, changes = FAMILIES[name]
    found = judged(random_decoder(family, **changes), tmp_path)
    assert found.failures == ()
    assert found.wraps > 4
    assert found.logit_error < 2e-3  # what half-precision tables and masks leave
    assert max(found.cache_error, found.prefill_error) < 2e-3
    assert found.top1 == 1.0


def test_states_are_caches_too(tmp_path: Path) -> None:
    found = judged(random_decoder("qwen2"), tmp_path, stateful=True)
    assert found.failures == ()
    assert found.logit_error < 2e-3


def test_a_head_in_pieces_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sottovoce.export.coreml import layout

    monkeypatch.setattr(modules, "HEAD_ROWS", 20)
    monkeypatch.setattr(layout, "HEAD_ROWS", 20)
    assert [spec.name for spec in Layout(random_decoder("qwen2").config, 32, 49, 8, False).io(DECODE).outputs[:3]] == [
        "logits_0",
        "logits_1",
        "logits_2",
    ]
    assert judged(random_decoder("qwen2"), tmp_path).failures == ()


def test_a_norm_holds_what_half_precision_cannot_square() -> None:
    source = torch.nn.LayerNorm(64)
    x = 3000 * torch.randn(1, 64, 1, 3, generator=torch.Generator().manual_seed(0))
    found = modules.Norm(source).half()(x.half())
    wanted = source(x.half().float()[0, :, 0].T).T
    torch.testing.assert_close(found[0, :, 0].float(), wanted, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize(
    "broken",
    [
        lambda new, write: torch.zeros(1),
        lambda new, write: new.roll(1, 2) * write if new.shape[-1] == 1 else torch.matmul(new, write),
        lambda new, write: new * write if new.shape[-1] == 1 else torch.matmul(new, write.roll(1, 3)),
    ],
    ids=["nothing is written", "decode writes wrongly", "prefill writes to other slots"],
)
def test_a_wrong_write_is_seen(broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_placed", broken)
    assert any("cache" in line for line in judged(random_decoder("qwen2"), tmp_path).failures)


@torch.no_grad()
def test_the_codec_sounds_the_same() -> None:
    codec = tiny_codec()
    module, specs = SlotCodec(codec.decoder), state_specs(codec)
    codes = torch.randint(0, codec.codebook_size, (1, 23), generator=torch.Generator().manual_seed(1))
    wanted = codec.decode(codes, codec.init_states(1))[0][0]
    states = [torch.zeros(spec.shape) for spec in specs]
    pieces = []
    for chunk in codes.split((9, 1, 1, 12), 1):
        audio, *states = module(codec.quantizer.values(chunk[0]).T[None, :, None], *states)
        assert audio.shape == (1, codec.config.hop, 1, chunk.shape[1])
        pieces.append(audio[0, :, 0].T.reshape(-1))
    torch.testing.assert_close(torch.cat(pieces), wanted, rtol=1e-4, atol=1e-5)
    assert set(codec_functions(codec)) == {f"codes_{MANY}", "codes_1"}
