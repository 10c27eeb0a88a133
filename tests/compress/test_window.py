"""The window's curriculum, its masks, and what the student learns from."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sottovoce.compress.corpus.batches import IGNORED, Batch
from sottovoce.compress.losses import skew_kl_sum
from sottovoce.compress.recipe import CurriculumRecipe, LossRecipe
from sottovoce.compress.spoken import PIECE
from sottovoce.compress.window import Curriculum, WindowObjective, soft_mask
from sottovoce.models.masks import wand_mask
from sottovoce.runtime.manifest import PromptSpec
from tests.models.shapes import tiny_decoder

RECIPE = CurriculumRecipe(share=0.8, start=128, tau_start=1.0, tau_end=100.0)
HARD = Curriculum(replace(RECIPE, share=0.0), window=4, longest=30, steps=10)
PROMPT = PromptSpec((80,), 10, 50, (82,), 40, 30)
SPOKEN = [*range(10, 60), 82]


def batch(lengths: tuple[int, ...] = (20, 13), prefix: tuple[int, ...] = (5, 8)) -> Batch:
    """Rows of random codes after their prefixes, right-padded."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 60, (len(lengths), max(lengths)), generator=generator)
    targets = ids.roll(-1, 1)
    for row, length, start in zip(targets, lengths, prefix, strict=True):
        row[: start - 1], row[length - 1], row[length:] = IGNORED, 82, IGNORED
    return Batch(ids, targets, torch.tensor(prefix), torch.tensor(lengths))


def objective(curriculum: Curriculum = HARD, seed: int = 0, **loss: float) -> WindowObjective:
    """A student beside a teacher of the same weights where `seed` is 0."""
    recipe = LossRecipe(**{"ce": 1.0, "kl": 1.0, "skew": 0.1, **loss})
    student, teacher = tiny_decoder("qwen2_tied", seed), tiny_decoder("qwen2_tied")
    return WindowObjective(student, teacher, PROMPT, recipe, curriculum)


def test_curriculum() -> None:
    """From 128 to 32 by a cosine, τ by decades; hard after its share of the steps."""
    curriculum = Curriculum(RECIPE, window=32, longest=500, steps=100)
    assert curriculum.at(0) == (128, 1.0)
    assert curriculum.at(40) == pytest.approx((80, 10.0))
    assert curriculum.at(20) == pytest.approx((round(128 - 96 * 0.5 * (1 - math.sqrt(0.5))), 10**0.5))
    assert curriculum.at(80) == curriculum.at(99) == (32, math.inf)
    windows, taus = zip(*(curriculum.at(step) for step in range(100)), strict=True)
    assert list(windows) == sorted(windows, reverse=True) and list(taus) == sorted(taus)


@pytest.mark.parametrize(
    ("start", "longest", "window", "first"),
    [(128, 60, 32, 60), ("longest", 300, 32, 300), (128, 500, 200, 200), ("longest", 20, 32, 32)],
)
def test_where_a_curriculum_starts(start: int, longest: int, window: int, first: int) -> None:
    assert Curriculum(replace(RECIPE, start=start), window, longest, 10).at(0)[0] == first


def test_a_curriculum_of_share_0_is_none() -> None:
    assert HARD.at(0) == (4, math.inf)


def test_soft_mask_rows_are_the_wand_mask_of_their_prefix() -> None:
    prefix = torch.tensor([3, 7, 1])
    soft, hard = soft_mask(12, prefix, 4, 2.5), soft_mask(12, prefix, 4, math.inf)
    past = torch.ones(12, 12, dtype=torch.bool).tril()
    for row, count in enumerate(prefix.tolist()):
        visible = wand_mask(12, count, 4)[0]
        assert torch.equal(hard[row], visible)
        assert torch.equal(soft[row] == 0, visible)
        assert torch.equal(soft[row] == -2.5, past & ~visible)
        assert torch.equal(soft[row] == -math.inf, ~past[None])


def test_a_large_tau_is_the_hard_mask_and_a_small_one_is_full_attention() -> None:
    decoder, b = tiny_decoder("qwen2_tied"), batch()
    hard, full = decoder(b.ids, mask=soft_mask(20, b.prefix, 4, math.inf)), decoder(b.ids)
    torch.testing.assert_close(decoder(b.ids, mask=soft_mask(20, b.prefix, 4, 1e4)), hard)
    torch.testing.assert_close(decoder(b.ids, mask=soft_mask(20, b.prefix, 4, 1e-9)), full)
    assert (hard - full).abs().max() > 0.1


def by_hand(b: Batch, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """CE and KL of whole logits [B,T,V], token by token."""
    ce, kl = torch.zeros(()), torch.zeros(())
    for row, t in (b.targets >= 0).nonzero().tolist():
        q, p = student[row, t, SPOKEN], teacher[row, t, SPOKEN]
        ce = ce - q.log_softmax(-1)[SPOKEN.index(int(b.targets[row, t]))]
        kl = kl + skew_kl_sum(q[None], p[None], 0.1)
    return ce, kl


def test_losses_are_those_of_the_tokens_that_can_be_spoken() -> None:
    b, both = batch(), objective(seed=1, kl=0.5)
    student, teacher = tiny_decoder("qwen2_tied", 1), tiny_decoder("qwen2_tied")
    windowed = student.logits(student(b.ids, mask=soft_mask(20, b.prefix, 4, math.inf)))
    ce, kl = by_hand(b, windowed, teacher.logits(teacher(b.ids)))
    losses = both(b, 0)
    torch.testing.assert_close(losses["ce"], ce)
    torch.testing.assert_close(losses["kl"], kl)
    torch.testing.assert_close(losses["loss"], ce + 0.5 * kl)


def test_a_teacher_that_sees_what_the_student_sees_has_nothing_to_teach() -> None:
    wide = replace(HARD, window=30)
    assert objective(wide)(batch(), 0)["kl"].abs() < 1e-4
    assert objective()(batch(), 0)["kl"] > 0.1


def test_rows_do_not_see_each_other_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = objective(seed=1)(batch(), 0)
    monkeypatch.setattr("sottovoce.compress.spoken.PIECE", 3)
    pieces = objective(seed=1)(batch(), 0)
    b = batch()
    short = Batch(b.ids[1:, :13], b.targets[1:, :13], b.prefix[1:], b.lengths[1:])
    long = Batch(b.ids[:1], b.targets[:1], b.prefix[:1], b.lengths[:1])
    for name in ("ce", "kl"):
        torch.testing.assert_close(pieces[name], whole[name])
        torch.testing.assert_close(objective(seed=1)(short, 0)[name] + objective(seed=1)(long, 0)[name], whole[name])
    assert PIECE > 3


def test_only_the_student_learns() -> None:
    both = objective(seed=1)
    both(batch(), 0)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in both.student.model.layers.parameters())
    assert all(p.grad is None for p in both.teacher.parameters())


def test_without_kl_there_is_no_teacher() -> None:
    alone = objective(seed=1, kl=0.0, ce=2.0)
    losses = alone(batch(), 0)
    assert alone.teacher is None and set(losses) == {"loss", "ce"}
    torch.testing.assert_close(losses["loss"], 2 * losses["ce"])


def test_a_share_without_targets_gives_zero_gradients() -> None:
    b = batch()
    empty = Batch(b.ids, torch.full_like(b.targets, IGNORED), b.prefix, b.lengths)
    both = objective(seed=1)
    both(empty, 0)["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in both.student.parameters())


def test_schedule_is_shown() -> None:
    both = objective(Curriculum(RECIPE, 4, 30, 10))
    assert both.schedule(0) == {"window": 30, "tau": 1.0}
    assert both.schedule(9) == {"window": 4, "tau": None}
