"""What a student hears of itself: the tokens it would draw, where the batch asks, in every way of compressing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sottovoce.compress import history
from sottovoce.compress.corpus.batches import IGNORED, Batch
from sottovoce.compress.history import TEMPERATURE, hear_itself
from sottovoce.compress.loop import Objective
from tests.compress import test_patch, test_prune, test_window
from tests.compress.test_window import PROMPT, batch
from tests.models.shapes import tiny_decoder

OBJECTIVES: dict[str, tuple[Callable[[], Objective], Callable[[], Batch]]] = {
    "window": (test_window.objective, test_window.batch),
    "prune": (test_prune.objective, test_window.batch),
    "patch": (test_patch.objective, test_patch.batch),
}


def drifting(b: Batch, share: float = 0.5) -> Batch:
    """`b`, a share of its codes to be drawn."""
    generator = torch.Generator().manual_seed(5)
    numbers, chosen = torch.rand(2, *b.ids.shape, generator=generator)
    followed = (b.targets != IGNORED) & (torch.arange(b.ids.shape[1]) < b.lengths[:, None] - 1)
    return replace(b, drift=torch.where(followed & (chosen < share), numbers, -1.0))


def test_a_code_is_drawn_where_it_is_asked_for_and_nothing_else_moves() -> None:
    b, decoder = drifting(batch()), tiny_decoder("qwen2_tied")
    assert b.drift is not None
    heard = hear_itself(b, decoder, decoder, PROMPT)
    chances = (decoder.logits(decoder(b.ids))[..., 10:60] / TEMPERATURE).softmax(-1).cumsum(-1)
    for row, t in (b.drift >= 0).nonzero().tolist():
        number, found = float(b.drift[row, t]), int(heard.ids[row, t + 1]) - 10
        below = float(chances[row, t, found - 1]) if found else 0.0
        assert below - 1e-6 <= number <= float(chances[row, t, found]) + 1e-6
    kept = torch.nn.functional.pad(b.drift[:, :-1] < 0, (1, 0), value=True)
    assert heard.ids[kept].equal(b.ids[kept]) and not heard.ids.equal(b.ids)
    assert heard.targets is b.targets and heard.lengths is b.lengths


def test_without_drift_the_corpus_is_heard() -> None:
    b = batch()
    assert hear_itself(b, lambda ids: pytest.fail("nothing is drawn"), tiny_decoder("qwen2_tied"), PROMPT) is b


def test_many_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    b, decoder = drifting(batch()), tiny_decoder("qwen2_tied")
    whole = hear_itself(b, decoder, decoder, PROMPT).ids
    monkeypatch.setattr(history, "PIECE", 3)
    assert hear_itself(b, decoder, decoder, PROMPT).ids.equal(whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_way_learns_from_what_it_hears(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, rows = OBJECTIVES[name]
    learner = make()
    b, heard = rows(), []
    drifted = drifting(b)
    losses = learner(drifted, 0)
    assert losses["loss"] != learner(b, 0)["loss"]

    def listen(*args) -> Batch:
        heard.append(hear_itself(*args))
        return heard[-1]

    monkeypatch.setattr(f"sottovoce.compress.{name}.hear_itself", listen)
    learner(drifted, 0)
    assert learner(replace(heard[0], drift=None), 0)["loss"] == losses["loss"]
    losses["loss"].backward()
