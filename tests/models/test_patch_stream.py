"""Step by step over three caches equals the whole row, and an utterance ends where it should."""

import numpy as np
import pytest
import torch

from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.stream import PatchStream
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.sampling import Sampler
from tests.models.patches import PROMPT, padded, row, tiny_patches

PREFIX, SAID = 14, 43
ROW = row(4, 7, SAID)
"""Prefix of 14 tokens, the clip's last patch short for every k; ten patches of four, and three tokens."""


def whole(patches: PatchDecoder, window: int | None) -> torch.Tensor:
    """Logits [SAID + 1, V'] of one pass."""
    tokens, start = ROW
    return patches.logits(patches(*padded(ROW), window)[0, start - 1 : len(tokens)])


def stepwise(patches: PatchDecoder, window: int, fill: float) -> torch.Tensor:
    """The same logits, token by token: the row's own codes are drawn, then a stop."""
    tokens, start = ROW
    logits: list[np.ndarray] = []

    def draw(row: np.ndarray) -> int | None:
        logits.append(row.copy())
        return tokens[start + len(logits) - 1] if len(logits) <= SAID else None

    stream = PatchStream(patches, PREFIX, window, fill)
    stream.prefill(tokens[:start])
    said: list[int] = []
    while patch := stream.patch(draw):
        said += patch
    assert said == tokens[start:]
    return torch.from_numpy(np.stack(logits))


@pytest.mark.parametrize("patch", [2, 4, 6])
@pytest.mark.parametrize("compressor", ["attention", "mean"])
@pytest.mark.parametrize(("speaker", "window"), [("pooled", 3), ("none", 3), ("pooled", None)])
def test_stream_equals_the_whole_row(patch, compressor, speaker, window) -> None:
    """Windowed, the backbone's ring of two goes round at least three times, and the compressor's of sixteen twice."""
    patches = tiny_patches(patch, compressor, speaker)
    expected = whole(patches, window)
    actual = stepwise(patches, window or SAID, fill=1e3)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize("name", ["llama3_rope", "qwen3_head_dim", "gpt2_own_head"])
def test_other_backbones(name) -> None:
    patches = tiny_patches(name=name)
    expected = whole(patches, 4)
    actual = stepwise(patches, 4, 1e3)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.std()))


def test_a_window_changes_what_is_said() -> None:
    patches = tiny_patches(4)
    assert (whole(patches, 4) - whole(patches, None))[20:].abs().max() > 0.01


@pytest.mark.parametrize("last", [0, 1, 3, 4])
def test_a_stop_inside_a_patch_ends_the_utterance(last: int) -> None:
    """After `last` tokens, in patches of four."""
    stream = PatchStream(tiny_patches(4), PREFIX, 4)
    stream.prefill(ROW[0][: ROW[1]])
    codes = iter([*range(20, 20 + last), None])
    patches = [stream.patch(lambda _: next(codes)) for _ in range(3)]
    assert patches == ([[20, 21, 22, 23], [], []] if last == 4 else [[*range(20, 20 + last)], [], []])


def test_the_runtimes_sampler_draws() -> None:
    """The same seed says the same; a stop cannot come before the least length."""
    said = []
    for _ in range(2):
        patches = tiny_patches(4)
        sampler = Sampler(SamplingSpec(temperature=1.0, top_k=20), patches.spoken.numpy(), PROMPT.stop, 7, 10)
        stream = PatchStream(patches, PREFIX, 4)
        stream.prefill(ROW[0][: ROW[1]])
        said.append([token for _ in range(5) for token in stream.patch(sampler.draw)])
    assert said[0] == said[1] and len(said[0]) >= 10
    assert all(10 <= token < 60 for token in said[0])
