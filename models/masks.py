"""The WAND mask: which earlier tokens a token sees once the window is bounded (architecture.md, "Cache")."""

import torch
from torch import Tensor


def wand_mask(length: int, prefix: int | Tensor, window: int) -> Tensor:
    """Visible (True) keys of each query, bool [B, 1, length, length], for SDPA; B is 1 where `prefix` is a number.

    Query i sees key j when j ≤ i and (j < prefix or i − j < window): the conditioning for good, and the last `window`
    generated tokens, itself included. `prefix` counts the real tokens of the prefix, [B] of them for rows that differ.
    """
    prefixes = torch.as_tensor(prefix).reshape(-1, 1, 1, 1)
    query = torch.arange(length, device=prefixes.device)[:, None]
    key = torch.arange(length, device=prefixes.device)[None, :]
    return (key <= query) & ((key < prefixes) | (query - key < window))
