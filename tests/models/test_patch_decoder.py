"""Patch decoders over whole rows: where tokens go, what each sees, and nothing that leaks back."""

import pytest
import torch

from sottovoce.errors import VoiceError
from sottovoce.models.config import DecoderConfig
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.places import find_places
from tests.models.patches import PROMPT, padded, row, tiny_patches
from tests.models.shapes import CONFIGS, tiny_decoder

ROWS = (row(5, 9, 14), row(3, 0, 21, seed=1), row(7, 6, 3, seed=2, after=0))


def qwen(**changes: int) -> DecoderConfig:
    """Qwen2-0.5B's shape, or another."""
    shape = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    return DecoderConfig.from_hf(CONFIGS["qwen2_tied"] | shape | changes)


def test_sizes_are_the_backbones() -> None:
    config = PatchConfig.of(qwen(num_hidden_layers=24), 4)
    assert (config.window, config.slots, config.compressor_layers.layers) == (16, 4, 1)
    depths = {n: PatchConfig.of(qwen(num_hidden_layers=n), 4).extractor_layers.layers for n in (2, 12, 16, 24, 28)}
    assert config.extractor_layers.layers == depths[24] and depths == {2: 2, 12: 2, 16: 2, 24: 4, 28: 4}
    assert config.extractor_layers.tokens(qwen()).heads * 64 == 896 and config.extractor_layers.ff == 4864
    assert config.compressor_layers.cross(qwen()).head_dim == 128
    wide = qwen(hidden_size=1024, num_attention_heads=16, head_dim=128)
    assert (PatchConfig.of(wide, 4).extractor_layers.heads, PatchConfig.of(wide, 4).extractor_layers.head_dim) == (
        8,
        128,
    )


@pytest.mark.parametrize("change", [{"patch": 1}, {"window": 0}, {"slots": 0}])
def test_refuses_what_is_no_patch(change: dict[str, int]) -> None:
    config = PatchConfig.of(qwen(), 4)
    with pytest.raises(VoiceError, match="at least"):
        PatchConfig(**(vars(config) | change))


def test_where_tokens_go() -> None:
    ids, prefix, lengths = padded(*ROWS)
    places = find_places(ids, prefix, lengths, range(10, 60), 4)
    assert places.prefix.tolist() == [1 + 5 + 1 + 3 + 1, 1 + 3 + 1 + 0 + 1, 1 + 7 + 1 + 2]
    assert places.positions[0, :15].tolist() == [*range(7), 10, 14, 15, 16, *(16 + 4 * n for n in (1, 2, 3)), 30]
    assert places.positions[1, :12].tolist() == [*range(6), 9, 13, 17, 21, 25, 26]
    assert places.positions[2, :12].tolist() == [*range(9), 12, 14, 17]
    T = ids.shape[1]
    clip, said = [T, T + 1, T + 2], [T + 3 + i for i in range(6)]
    assert places.source[0, :15].tolist() == [*range(7), *clip, 16, *said[:4]]
    assert places.source[1, :12].tolist() == [*range(6), *said]
    assert places.source[2, :12].tolist() == [*range(9), *clip[:2], said[0]]
    for b, (tokens, start) in enumerate(ROWS):
        stream = ids[b, places.said.index[b]][places.said.real[b]]
        assert stream.tolist() == tokens[start:]
    assert ids[0, places.clip.index[0]][places.clip.real[0]].tolist() == ROWS[0][0][7:16]


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("speaker", ["pooled", "none"])
@pytest.mark.parametrize("compressor", ["attention", "mean"])
def test_rows_do_not_see_each_other_or_padding(compressor, speaker, window) -> None:
    patches = tiny_patches(4, compressor, speaker)
    together = patches(*padded(*ROWS), window)
    for b, (tokens, start) in enumerate(ROWS):
        alone = patches(*padded((tokens, start)), window)[0]
        torch.testing.assert_close(together[b, : len(tokens)], alone, rtol=1e-5, atol=1e-5)
        assert not together[b, : start - 1].any() and not together[b, len(tokens) :].any()
        assert together[b, start - 1 : len(tokens)].abs().sum(-1).min() > 0


def moved(patches: PatchDecoder, at: int, window: int | None = None) -> list[int]:
    """Targets of the first row, counted from its first, that notice another code at generated token `at`."""
    tokens, start = ROWS[0]
    changed = [*tokens]
    changed[start + at] = 10 + (changed[start + at] - 9) % 50
    before, after = (patches(*padded((ids, start)), window)[0, start - 1 :] for ids in (tokens, changed))
    return ((before - after).abs().amax(-1) > 1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize("patch", [2, 4, 6])
@pytest.mark.parametrize("compressor", ["attention", "mean"])
def test_nothing_leaks_back(patch, compressor) -> None:
    """A token is seen by those behind it in its patch, and by all of the patches after."""
    patches = tiny_patches(patch, compressor)
    for at in range(14):
        assert moved(patches, at) == list(range(at + 1, 15)), at


def test_a_window_ends() -> None:
    """One layer of two patches: with the compressor's sight of sixteen tokens, the mean alone shows it."""
    patches = tiny_patches(2, "mean")
    patches.backbone.model.layers = patches.backbone.model.layers[:1]
    assert moved(patches, 0, window=2) == [1, 2, 3, 4, 5]
    assert moved(patches, 0, window=3) == [1, 2, 3, 4, 5, 6, 7]


def test_the_compressor_sees_sixteen_tokens() -> None:
    """Its layers alone, on one stream."""
    compressor = tiny_patches(4).compressor
    generator = torch.Generator().manual_seed(0)
    tokens, real = torch.randn(1, 40, 64, generator=generator), torch.ones(1, 40, dtype=torch.bool)
    other = tokens.clone()
    other[0, 4] += 1
    changed = (compressor(tokens, real) - compressor(other, real)).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_clip_and_speech_are_streams_of_their_own() -> None:
    """The clip changes the words of the backbone; the patches that are said stay what they are."""
    patches = tiny_patches(4)
    (tokens, start), other = ROWS[0], [*ROWS[0][0]]
    other[15] = 10 + (other[15] - 9) % 50
    found = []
    for ids, prefix, lengths in (padded((tokens, start)), padded((other, start))):
        places = find_places(ids, prefix, lengths, patches.codes, 4)
        found.append(patches.read(patches.backbone.model.embed_tokens(ids), places)[0][0])
    changed = (found[0] - found[1]).abs().amax(-1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [9]


def test_the_pooled_speaker_is_heard() -> None:
    """Words alone being the same, another clip's mean changes what is said; without one it is zeros."""
    patches = tiny_patches(4)
    ids, prefix, lengths = padded(*ROWS)
    places = find_places(ids, prefix, lengths, patches.codes, 4)
    _, speaker = patches.read(patches.backbone.model.embed_tokens(ids), places)
    clip = patches.backbone.model.embed_tokens(torch.tensor([ROWS[0][0][7:16]]))
    torch.testing.assert_close(speaker[0], patches.compressor(clip, torch.ones(1, 9, dtype=torch.bool))[0].mean(0))
    assert not speaker[1].any()
    context = torch.randn(1, 64)
    told = [patches.extractor.told(context, s[None]) for s in speaker[:2]]
    assert (told[0] - told[1]).abs().max() > 0.1


def test_logits_are_of_what_can_be_said() -> None:
    patches = tiny_patches(name="llama3_rope")
    hidden = torch.randn(2, 3, 64)
    assert patches.spoken.tolist() == [*range(10, 61), 83]
    torch.testing.assert_close(patches.logits(hidden), patches.backbone.logits(hidden)[..., patches.spoken])


@pytest.mark.parametrize("name", ["qwen3_head_dim", "gpt2_own_head"])
def test_trains_under_bfloat16_autocast(name) -> None:
    backbone = tiny_decoder(name)
    patches = PatchDecoder(backbone, PatchConfig.of(backbone.config, 4), PROMPT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = patches.logits(patches(*padded(*ROWS))).float().logsumexp(-1).mean()
    loss.backward()
    gradients = [p.grad for net in (patches.compressor, patches.extractor) for p in net.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    assert all(p.grad is None for p in backbone.parameters())


def test_same_seed_same_weights_and_patches_as_large_as_tokens() -> None:
    backbone = tiny_decoder("qwen2_tied")
    first, again, other = (
        PatchDecoder(backbone, PatchConfig.of(backbone.config, 4), PROMPT, seed).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["extractor.start"], other["extractor.start"])
    size = backbone.model.embed_tokens.weight[[*range(10, 61), 83]].square().mean().sqrt()
    torch.testing.assert_close(first["compressor.norm.weight"], size.expand(64))


@pytest.mark.parametrize("seed", range(4))
def test_an_untaught_voice_says_the_first_token_that_it_would_have_said_without_patches(seed: int) -> None:
    backbone = tiny_decoder("qwen2_tied")
    patches = PatchDecoder(backbone, PatchConfig.of(backbone.config, 4), PROMPT, seed).requires_grad_(False)
    ids, prefix, lengths = padded(row(5 + seed, 0, 8, seed))
    start = int(prefix[0])
    said = patches.logits(patches(ids, prefix, lengths))[0, start - 1]
    known = backbone.logits(backbone(ids[:, :start]), patches.spoken)[0, -1]
    assert float(torch.corrcoef(torch.stack((said, known)))[0, 1]) > 0.8
