"""One run of the graph for each patch says what torch says, token by token, for the same random numbers."""

from pathlib import Path

import pytest

from sottovoce.errors import OptionError
from sottovoce.export.patch_drive import PatchDriver
from sottovoce.export.patch_graph import PatchOptions, export_patches
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.stream import PatchStream
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.sampling import Sampler
from tests.models.patches import PROMPT, row, tiny_patches

PREFIX, WINDOW, PATCHES = 16, 7, 200
FREE = 10**6
"""A least length that no test reaches: no stop is drawn."""

SAMPLED = SamplingSpec(
    temperature=0.9, top_k=30, top_p=0.95, repetition_penalty=1.2, repetition_window=9, ras_window=10, ras_tau=0.2
)
GREEDY = SamplingSpec(temperature=0, repetition_penalty=1.3, repetition_window=20)


def export(folder: Path, patches: PatchDecoder, weights: str = "fp32", garbage: float = 1e3) -> PatchDriver:
    """A driver of the exported graph, which knows positions for all patches."""
    positions = PREFIX + 9 + PATCHES * patches.config.patch
    if patches.backbone.config.traits.learned_positions:
        positions = patches.backbone.config.max_position
    options = PatchOptions(weights, PREFIX, WINDOW, clip=9, max_position=positions)  # type: ignore[arg-type]
    parts = export_patches(patches, PROMPT, options, folder)
    return PatchDriver(folder / "decoder.onnx", parts, patches.codes, garbage=garbage)


def by_graph(driver: PatchDriver, prefix: list[int], spec: SamplingSpec, seed: int, least: int) -> list[list[int]]:
    """The patches of an utterance, PATCHES at most."""
    driver.begin(spec, seed, least)
    said = [driver.prefill(prefix)]
    while len(said[-1]) == driver.patch and len(said) < PATCHES:
        said.append(driver.step(said[-1]))
    return said


def by_torch(patches: PatchDecoder, prefix: list[int], spec: SamplingSpec, seed: int, least: int) -> list[list[int]]:
    """The same patches by the reference and the runtime's sampler."""
    sampler = Sampler(spec, patches.spoken.numpy(), PROMPT.stop, seed, least)
    stream = PatchStream(patches, PREFIX, WINDOW, 1e3)
    stream.prefill(prefix)
    said = [stream.patch(sampler.draw)]
    while len(said[-1]) == patches.config.patch and len(said) < PATCHES:
        said.append(stream.patch(sampler.draw))
    return said


def prefix(clip: int) -> list[int]:
    """Four words and a clip."""
    tokens, count = row(4, clip, 0)
    return tokens[:count]


@pytest.mark.parametrize(("patch", "spec"), [(2, SAMPLED), (4, SAMPLED), (6, SAMPLED), (2, GREEDY)])
def test_two_hundred_patches_are_torchs(tmp_path: Path, patch: int, spec: SamplingSpec) -> None:
    """The backbone's ring goes round 33 times, the compressor's 26 times and more; the clip's last patch is short."""
    patches = tiny_patches(patch)
    driver = export(tmp_path, patches)
    expected = by_torch(patches, prefix(7), spec, 5, FREE)
    assert by_graph(driver, prefix(7), spec, 5, FREE) == expected
    assert driver.runs - 1 == len(expected) == PATCHES  # the prefix's first place has a run of its own
    assert len({tuple(tokens) for tokens in expected}) > (10 if spec is GREEDY else PATCHES // 2)


@pytest.mark.parametrize(
    ("compressor", "speaker", "name"),
    [
        ("mean", "pooled", "qwen2_tied"),
        ("attention", "none", "llama_mha_biases"),
        ("attention", "pooled", "qwen3_head_dim"),
        ("mean", "none", "gpt2_tied"),
    ],
)
def test_other_nets_and_backbones(tmp_path: Path, compressor, speaker, name) -> None:
    patches = tiny_patches(4, compressor, speaker, name)
    driver = export(tmp_path, patches)
    assert by_graph(driver, prefix(7), SAMPLED, 2, 100) == by_torch(patches, prefix(7), SAMPLED, 2, 100)


@pytest.mark.parametrize("clip", [0, 1, 8, 9])
def test_clips_of_any_length_and_utterances_that_end(tmp_path: Path, clip: int) -> None:
    """One driver, utterance after utterance: a stop at any place in a patch; no clip is no speaker."""
    patches, lengths = tiny_patches(4), set()
    driver = export(tmp_path, patches)
    for seed in range(8):
        said = by_graph(driver, prefix(clip), SAMPLED, seed, seed)
        assert said == by_torch(patches, prefix(clip), SAMPLED, seed, seed)
        lengths.add(len(said[-1]))
    assert len(lengths) >= 3


def test_garbage_does_not_matter(tmp_path: Path) -> None:
    patches = tiny_patches(4)
    said = [by_graph(export(tmp_path, patches, "fp32", g), prefix(7), SAMPLED, 3, 100) for g in (0.0, 1e3, -1e4)]
    assert said[0] == said[1] == said[2]


def test_int8_speaks(tmp_path: Path) -> None:
    """Every node takes quantized weights, the loop's too; how well it speaks is for trained voices to say."""
    patches = tiny_patches(4)
    said = by_graph(export(tmp_path, patches, "int8"), prefix(7), SAMPLED, 5, 100)
    assert sum(map(len, said)) >= 100
    assert all(token in patches.codes for tokens in said for token in tokens)


def test_heads_that_the_fused_attention_refuses(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="head_dim 8 is not a multiple of 16"):
        export(tmp_path, tiny_patches(name="gpt2_own_head"))


def test_positions_that_were_never_learned(tmp_path: Path) -> None:
    patches = tiny_patches(compressor="mean", name="gpt2_tied")
    longest = patches.backbone.config.max_position
    with pytest.raises(OptionError, match=f"{longest + 1} positions are asked for and the checkpoint has learned"):
        export_patches(patches, PROMPT, PatchOptions("fp32", 16, 7, 9, longest + 1), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("prefix", "window", "positions", "words"),
    [(0, 7, 99, "1 slot"), (16, 1, 99, "2 patches"), (16, 7, 22, "22 positions are too few for 23 slots")],
)
def test_sizes_that_cannot_be(tmp_path: Path, prefix: int, window: int, positions: int, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        export_patches(tiny_patches(), PROMPT, PatchOptions("fp32", prefix, window, 9, positions), tmp_path)
    assert not list(tmp_path.iterdir())
