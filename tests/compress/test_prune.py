"""What a pruned voice learns: attention maps in pieces, each loss by its definition, and nothing from padding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sottovoce.compress import traces
from sottovoce.compress.corpus.batches import IGNORED, Batch
from sottovoce.compress.layers import keep_layers
from sottovoce.compress.prune import PruneObjective
from sottovoce.compress.recipe import PruneLossRecipe
from sottovoce.compress.traces import attention_map, map_errors, trace
from sottovoce.models.masks import wand_mask
from sottovoce.models.voice import VoiceSpec
from sottovoce.runtime.manifest import PromptSpec, TextSpec
from tests.compress.test_window import PROMPT, SPOKEN, batch
from tests.models.shapes import tiny_decoder

LOSS = PruneLossRecipe(0.25, 0.1875, 0.2, 0.3, 0.4, 0.1, "dynamic", "absolute")
KEPT = (0, 2)


def spec(window: int | None = None) -> VoiceSpec:
    """A voice that speaks as the batches do."""
    prompt: PromptSpec = PROMPT
    return VoiceSpec("codec", prompt, TextSpec("characters", "text.json"), 90, 130, window=window)


def objective(window: int | None = None, moved: bool = True, **loss: Any) -> PruneObjective:
    """Layers 0 and 2 of four, `moved` a little from where the teacher has them."""
    student = keep_layers(tiny_decoder("qwen2_tied", num_hidden_layers=4), KEPT)
    if moved:
        for number, parameter in enumerate(student.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.data += 0.02 * noise
    teacher = tiny_decoder("qwen2_tied", num_hidden_layers=4)
    return PruneObjective(student, teacher, spec(window), replace(LOSS, **loss), KEPT)


def maps_by_hand(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    """One map [heads,T,T], query by query."""
    found = torch.zeros(q.shape[0], q.shape[1], k.shape[1])
    for head in range(q.shape[0]):
        keys = k[head * len(k) // len(q)]
        for i in range(q.shape[1]):
            visible = seen[i].nonzero()[:, 0]
            found[head, i, visible] = (keys[visible] @ q[head, i] / q.shape[-1] ** 0.5).softmax(0)
    return found


@pytest.mark.parametrize("window", [None, 4])
def test_map_errors_are_those_of_whole_maps(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    b = batch()
    mask = None if window is None else wand_mask(20, b.prefix, window)
    first, second = (trace(tiny_decoder("qwen2_tied", seed), b.ids, mask, {1}, True).attention[1] for seed in (0, 1))
    whole = map_errors(first, second, mask, False)
    seen = torch.ones(20, 20, dtype=torch.bool).tril()
    for row in range(2):
        visible = seen if mask is None else mask[row, 0]
        mine, theirs = (maps_by_hand(q[row], k[row], visible) for q, k in (first, second))
        squares = (mine - theirs).square().sum(-1)
        torch.testing.assert_close(whole[row], squares.mean(0) / visible.sum(-1))
        shares = (squares / theirs.square().sum(-1)).mean(0)
        torch.testing.assert_close(map_errors(first, second, mask, True)[row], shares)
    monkeypatch.setattr(traces, "QUERIES", 7)
    torch.testing.assert_close(map_errors(first, second, mask, False), whole)


def test_maps_are_made_in_pieces_and_again_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    made = attention_map

    def counted(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
        shapes.append((q.shape[-2], k.shape[-2]))
        return made(q, k, seen)

    monkeypatch.setattr(traces, "attention_map", counted)
    monkeypatch.setattr(traces, "QUERIES", 8)
    q, k = (torch.randn(1, heads, 20, 16, requires_grad=True) for heads in (4, 2))
    errors = map_errors((q, k), (torch.randn(1, 4, 20, 16), torch.randn(1, 2, 20, 16)), None, False)
    assert shapes == [(8, 20), (8, 20), (8, 20), (8, 20), (4, 20), (4, 20)]
    errors.sum().backward()
    assert len(shapes) == 12 and q.grad is not None and q.grad.abs().sum() > 0


def test_a_trace_computes_what_the_decoder_does_and_keeps_what_is_asked_for() -> None:
    decoder, b = tiny_decoder("llama_mha_biases", num_hidden_layers=3), batch()
    mask = wand_mask(20, b.prefix, 4)
    found = trace(decoder, b.ids, mask, {0, 2}, False)
    torch.testing.assert_close(found.final, decoder(b.ids, mask=mask))
    torch.testing.assert_close(found.final, decoder.model.norm(found.hidden[2]))
    assert set(found.hidden) == {0, 2} and not found.attention
    assert set(trace(decoder, b.ids, mask, {1}, True).attention) == {1}


def row_by_row(b: Batch, errors: Tensor) -> Tensor:
    """The mean of errors [B,T] over each row's tokens, times its targets."""
    rows = zip(errors, b.lengths.tolist(), (b.targets >= 0).sum(1).tolist(), strict=True)
    return torch.stack([row[:length].mean() * count for row, length, count in rows]).sum()


def squared(mine: Tensor, theirs: Tensor, relative: bool) -> Tensor:
    """Squared errors [B,T] of [B,T,d], one token after the other."""
    pairs = zip(mine.flatten(0, 1), theirs.flatten(0, 1), strict=True)
    found = [(a - b).pow(2).sum() / (b.pow(2).sum() if relative else len(b)) for a, b in pairs]
    return torch.stack(found).view(mine.shape[:2])


@pytest.mark.parametrize("errors", ["absolute", "relative"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("matching", "others"), [("dynamic", (1, 3)), ("static", (0, 2))])
def test_losses_are_their_definitions(window: int | None, matching: str, others: tuple[int, int], errors: str) -> None:
    relative = errors == "relative"
    b, both = batch(), objective(window, matching=matching, errors=errors)
    mask = None if window is None else wand_mask(20, b.prefix, window)
    mine = trace(both.student, b.ids, mask, {0, 1}, True)
    theirs = trace(both.teacher, b.ids, mask, {0, 2, *others}, True)
    hidden = [squared(mine.hidden[n], theirs.hidden[m], relative) for n, m in enumerate(others)]
    maps = [map_errors(mine.attention[n], theirs.attention[m], mask, relative) for n, m in enumerate((0, 2))]
    embedded = squared(both.student.head[b.ids], both.teacher.head[b.ids], relative)
    losses = both(b, 0)
    torch.testing.assert_close(losses["hidden"], row_by_row(b, sum(hidden) / 2))
    torch.testing.assert_close(losses["attention"], row_by_row(b, sum(maps) / 2))
    torch.testing.assert_close(losses["embedding"], row_by_row(b, embedded))
    learned = b.targets >= 0
    logits = both.student.logits(both.student(b.ids, mask=mask))[learned][:, SPOKEN].log_softmax(-1)
    rows = torch.tensor([SPOKEN.index(target) for target in b.targets[learned].tolist()])
    torch.testing.assert_close(losses["ce"], -logits[torch.arange(len(rows)), rows].sum())
    parts = {"ce": 0.25, "kl": 0.1875, "hidden": 0.2, "attention": 0.3, "embedding": 0.4}
    assert set(losses) == {"loss", *parts}
    torch.testing.assert_close(losses["loss"], sum(weight * losses[name] for name, weight in parts.items()))


def test_a_student_that_has_not_moved_differs_where_layers_are_gone() -> None:
    losses = objective(moved=False, matching="static")(batch(), 0)
    assert losses["embedding"] == 0 and losses["kl"] > 0.1
    assert losses["hidden"] > 1e-3  # layer 2 of the student reads another input than the teacher's


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sottovoce.compress.prune.map_errors", None)
    both = objective(hidden=0.0, attention=0.0, embedding=0.0)
    assert set(both(batch(), 0)) == {"loss", "ce", "kl"}
    assert both.schedule(0) == {}


def test_padding_and_other_rows_do_not_matter() -> None:
    b, whole = batch(), objective()(batch(), 0)
    short = Batch(b.ids[1:, :13], b.targets[1:, :13], b.prefix[1:], b.lengths[1:])
    long = Batch(b.ids[:1], b.targets[:1], b.prefix[:1], b.lengths[:1])
    alone = [objective()(rows, 0) for rows in (short, long)]
    for name, value in whole.items():
        torch.testing.assert_close(alone[0][name] + alone[1][name], value)


def test_only_the_student_learns_and_nothing_from_a_share_without_targets() -> None:
    both, b = objective(), batch()
    both(b, 0)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in both.student.model.layers.parameters())
    assert all(p.grad is None for p in both.teacher.parameters())
    both.zero_grad()
    both(Batch(b.ids, torch.full_like(b.targets, IGNORED), b.prefix, b.lengths), 0)["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in both.student.parameters())
