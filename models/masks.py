"""The WAND mask: which earlier tokens a token sees once the window is bounded (architecture.md, "Cache")."""

import torch
from torch import Tensor


def wand_mask(length: int, prefix: int, window: int) -> Tensor:
    """Visible (True) keys of each query, bool [1, 1, length, length], for SDPA.

    Query i sees key j when j ≤ i and (j < prefix or i − j < window): the conditioning for good, and the last `window`
    generated tokens, itself included. `prefix` counts the real tokens of the prefix.
    """
    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    return ((key <= query) & ((key < prefix) | (query - key < window)))[None, None]
