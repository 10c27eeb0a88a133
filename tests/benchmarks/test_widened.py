"""A voice in another shape says what it said before."""

from pathlib import Path

import pytest
import torch
from benchmarks import widened

from sottovoce.models.voice import Voice

SHAPE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 7, "num_attention_heads": 6}
REFERENCE = Path("voices/reference")


def test_it_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for norms rounded to half precision once more."""
    monkeypatch.setattr(widened, "CONFIG", SHAPE | {"num_key_value_heads": 2})
    widened.write_widened(REFERENCE, tmp_path / "wide")
    wide = Voice.open(tmp_path / "wide")
    assert (wide.checkpoint.config.hidden_size, wide.checkpoint.config.layers) == (384, 7)
    ids = torch.randint(0, 4000, (1, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said, before = (d.logits(d(ids)) for d in (v.checkpoint.load() for v in (wide, Voice.open(REFERENCE))))
    assert (said - before).abs().max() < 0.005 * before.std()
