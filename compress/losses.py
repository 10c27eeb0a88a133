"""Losses of distillation, summed over tokens: whoever calls divides by the tokens of the whole batch.

A mean per process would weigh its tokens by how many the process happens to have.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """−log q(target) summed over N tokens, scalar float32; `logits` [N,V], `targets` [N] int64 in 0..V-1."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def skew_kl_sum(student: Tensor, teacher: Tensor, skew: float) -> Tensor:
    """KL(p ‖ αp + (1−α)q) summed over N tokens, scalar float32: DistiLLM's skew KL, arXiv 2402.03898.

    `student` (q) and `teacher` (p) are logits [N,V]; `skew` is α in [0,1), and 0 gives the plain KL(p ‖ q).
    """
    p, q = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    # In logarithms throughout: a probability that underflows to 0 must not turn into 0 · −∞.
    mixed = torch.logaddexp(p + math.log(skew), q + math.log1p(-skew)) if skew else q
    return (p.exp() * (p - mixed)).sum()
