"""Losses against their definitions, written out over probabilities in float64."""

import pytest
import torch
from torch import Tensor

from sottovoce.compress.losses import cross_entropy_sum, skew_kl_sum


def logits(seed: int) -> Tensor:
    """Seven tokens over eleven ids."""
    return 3 * torch.randn(7, 11, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("skew", [0.0, 0.1, 0.9])
def test_skew_kl_is_its_definition(skew: float) -> None:
    q, p = (logits(seed).double().softmax(-1) for seed in (1, 2))
    expected = (p * (p / (skew * p + (1 - skew) * q)).log()).sum()
    torch.testing.assert_close(skew_kl_sum(logits(1), logits(2), skew), expected.float())
    assert skew_kl_sum(logits(1), logits(1), skew).abs() < 1e-5


def test_cross_entropy_is_a_sum_over_tokens() -> None:
    targets = torch.tensor([0, 1, 2, 3, 4, 5, 10])
    expected = -logits(1).double().softmax(-1).log()[torch.arange(7), targets].sum()
    torch.testing.assert_close(cross_entropy_sum(logits(1), targets), expected.float())


@pytest.mark.parametrize("skew", [0.0, 0.1])
def test_certain_distributions_give_numbers(skew: float) -> None:
    """A student sure of what the teacher rules out: the loss is large or bounded, its gradient a number."""
    student = (1e4 * torch.eye(4)).requires_grad_()
    loss = skew_kl_sum(student, 1e4 * torch.eye(4).roll(1, 0), skew)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite() and gradient.isfinite().all()
    if skew:
        torch.testing.assert_close(loss, torch.tensor(4 * -torch.tensor(skew).log().item()))
