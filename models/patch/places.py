"""Which token goes where when a row of tokens becomes positions of the backbone. Knows indices, no weights.

A row is `[prefix…, code, code, …]` as in training. Text and marks take a place each; the codes of the clip in the
prefix, and those that are generated, a place for each patch. A code in the prefix is told by its id: the clip is one
run of codes, and no text has ids of codes.

A place's position is that of its last token in the row. Not in the paper, which tells none: so distances stay what the
backbone learned them to be, and a patch is heard where it ends, with what follows it next to come.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """Tokens of one go: `index` [B,C] int64 where each stands in its row, `real` [B,C] bool which of them exist."""

    index: Tensor
    real: Tensor

    @classmethod
    def of(cls, start: Tensor, count: Tensor, length: int) -> "Stream":
        """`count` [B] tokens from `start` [B] on, in rows of `length`; C is the most that one has."""
        steps = torch.arange(int(count.max()), device=start.device)
        return cls((start[:, None] + steps).clamp(max=length - 1), steps < count[:, None])

    def take(self, rows: Tensor) -> Tensor:
        """The stream's share [B,C,d] of `rows` [B,T,d]."""
        return gather(rows, self.index)


@dataclass(frozen=True)
class Places:
    """`clip` and `said`, the streams that become patches, and what they and the other tokens become.

    `source` [B,M] int64: each place's input, counted over T tokens, then the clip's patches, then those said; what
    follows a row's own places is not read. `positions` [B,M] int64: of each place. `prefix` [B] int64: places of the
    prefix. `first` and `end` [B] int64: tokens from which the first said one follows, and after which none does.
    """

    clip: Stream
    said: Stream
    source: Tensor
    positions: Tensor
    prefix: Tensor
    first: Tensor
    end: Tensor


def find_places(ids: Tensor, prefix: Tensor, lengths: Tensor, codes: range, patch: int) -> Places:
    """Places of rows `ids` [B,T] with `prefix` [B] and `lengths` [B] tokens (int64); `codes` are their ids."""
    steps = torch.arange(ids.shape[1], device=ids.device)[None]
    begun, exists = steps < prefix[:, None], steps < lengths[:, None]
    in_clip = begun & (ids >= codes.start) & (ids < codes.stop)
    clip = Stream.of(in_clip.int().argmax(1), in_clip.sum(1), ids.shape[1])
    said = Stream.of(prefix, lengths - prefix, ids.shape[1])
    nth_clip, nth_said = in_clip.cumsum(1) - 1, steps - prefix[:, None]
    clip_patches = -(-clip.index.shape[1] // patch)
    source = torch.where(in_clip, ids.shape[1] + nth_clip // patch, steps)
    source = torch.where(begun, source, ids.shape[1] + clip_patches + nth_said // patch)
    nth = torch.where(in_clip, nth_clip, torch.where(begun, 0, nth_said))
    first = exists & (nth % patch == 0)
    order = (~first).int().argsort(dim=1, stable=True)[:, : int(first.sum(1).max())]
    kept = first.gather(1, order)
    source = source.gather(1, order).where(kept, 0)
    following = F.pad(order.where(kept, lengths[:, None])[:, 1:], (0, 1), value=ids.shape[1])
    positions = torch.minimum(following, lengths[:, None]) - 1
    return Places(clip, said, source, positions, (first & begun).sum(1), prefix - 1, lengths)


def gather(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [B,T,d] at `index` [B,N] → [B,N,d]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
