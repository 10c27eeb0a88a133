"""Step-by-step decoding over the ring equals the whole sequence under the WAND mask."""

import pytest
import torch

from sottovoce.models.masks import wand_mask
from sottovoce.models.ring import RingDecoder
from tests.models.shapes import CONFIGS, tiny_decoder

PREFIX, WINDOW, STEPS = 12, 9, 40  # 40 steps: five times round a ring of eight
IDS = torch.randint(0, 97, (1, PREFIX + STEPS), generator=torch.Generator().manual_seed(2))


def whole(name: str, prefix: int) -> torch.Tensor:
    """Logits [1, prefix + STEPS, V] of one pass under the mask."""
    decoder, ids = tiny_decoder(name), IDS[:, : prefix + STEPS]
    return decoder.logits(decoder(ids, mask=wand_mask(ids.shape[1], prefix, WINDOW)))


def stepwise(name: str, prefix: int, fill: float, chunk: int) -> torch.Tensor:
    """The same logits, the prefix in chunks and then token by token."""
    ring = RingDecoder(tiny_decoder(name), PREFIX, WINDOW, fill)
    parts = [ring.prefill(ids) for ids in IDS[:, :prefix].split(chunk, dim=1)]
    parts += [ring.step(int(token)) for token in IDS[0, prefix : prefix + STEPS]]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prefix", [1, PREFIX - 1, PREFIX])
def test_ring_equals_masked_sequence(name: str, prefix: int) -> None:
    expected = whole(name, prefix)
    for fill, chunk in ((0.0, PREFIX), (1e3, PREFIX), (-1e3, 5)):
        actual = stepwise(name, prefix, fill, chunk)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.std()))


def test_window_changes_what_is_seen() -> None:
    decoder = tiny_decoder("qwen2_tied")
    full = decoder.logits(decoder(IDS))
    windowed = whole("qwen2_tied", PREFIX)
    torch.testing.assert_close(windowed[:, : PREFIX + 3], full[:, : PREFIX + 3])
    assert (windowed - full)[:, PREFIX + WINDOW :].abs().max() > 0.1


def test_mask_rows() -> None:
    rows = wand_mask(7, prefix=2, window=2)[0, 0].int().tolist()
    assert rows == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
