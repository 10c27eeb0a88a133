"""The cache of one stream: fixed buffers, and which slot holds what. Knows nothing of graphs or tokens.

slot   0 ............ p-1 | p ................. p+W-2 | ...... | r-1
       conditioning,        ring of the last W-1        hidden   scratch: the graph writes
       kept for good        generated tokens                     the current token here

A prefix of p ≤ P tokens leaves P + W - p slots to the others. A run reads the first r: those in use, and the scratch
slot somewhere behind them, in whole steps of REACH; all P + W where a graph's shapes are fixed.
"""

import math
import mmap
import sys
from typing import Any, Final

import numpy as np

from sottovoce.runtime.manifest import CacheGroup, CacheSpec
from sottovoce.runtime.session import Array, Floats

HIDDEN: Final = np.float32(-1e30)
"""Attention bias of a slot that may not be seen: finite, so that no kernel makes a NaN of it."""

REACH: Final = 64
"""Slots by which runs read more: the engine plans its buffers once for each set of shapes, and keeps the plan."""

DTYPES: Final = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class Cache:
    """Key and value buffers of one stream, allocated once.

    `buffers` [2L, 1, H, P + W, D]: row 2i is layer i's keys and row 2i + 1 its values. Where past and present are not
    aliased, `written` [2L, 1, H, 1, D] is the scratch slot and `buffers` lack it; elsewhere both are the same array.
    `bias` [1, 1, 1, P + W] float32 is the attention bias of the next step, as far as `reach`, r; `lengths` int32 [1]
    and [] tell the fused op of it: r - 1, where it writes, and r.
    """

    def __init__(self, spec: CacheSpec) -> None:
        """Allocate zeros for the (only) group of `spec`: unwritten slots are hidden but must stay finite."""
        (group,) = spec.groups
        self.prefix = group.prefix
        self.ring = group.window - 1
        self.reach = self.slots = group.slots
        self.fixed = not spec.aliased
        self.lengths = np.array([self.slots - 1], np.int32), np.array(self.slots, np.int32)
        self.buffers = self._zeros(group, group.slots if spec.aliased else group.slots - 1)
        self.written = self.buffers if spec.aliased else self._zeros(group, 1)
        self.bias: Floats = np.empty((1, 1, 1, group.slots), np.float32)
        self.init_state()

    @staticmethod
    def _zeros(group: CacheGroup, slots: int) -> Array:
        """Keys and values of so many slots; see `fresh_zeros`."""
        shape = (2 * group.layers, 1, group.kv_heads, slots, group.head_dim)
        return fresh_zeros(shape, np.dtype(DTYPES[group.dtype]))

    def init_state(self) -> None:
        """Forget everything: no slot can be seen."""
        self.filled = 0
        """Conditioning slots in use, p."""
        self.generated = 0
        """Generated tokens whose keys and values have been written, t."""
        self.bias.fill(HIDDEN)

    @property
    def used(self) -> int:
        """Slots in use, which are the first."""
        return self.filled + min(self.generated, self.ring)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Every buffer once."""
        return (self.buffers,) if self.written is self.buffers else (self.buffers, self.written)

    @property
    def nbytes(self) -> int:
        """Bytes of all key and value buffers."""
        return sum(array.nbytes for array in self.arrays)

    def fill(self, count: int) -> None:
        """Account for a prefill run that wrote `count` more conditioning slots."""
        self.bias[..., self.filled : self.filled + count] = 0
        self.filled += count

    def aim(self) -> bool:
        """Before a decode run: choose its scratch slot and show it; True where `bias` is read up to another end."""
        before = self.reach
        self.reach = self.slots if self.fixed else min(-(-(self.used + 1) // REACH) * REACH, self.slots)
        self.bias[..., self.reach - 1] = 0
        last, total = self.lengths
        last[0], total[...] = self.reach - 1, self.reach
        return self.reach != before

    def advance(self) -> None:
        """Account for a decode run: keep what it wrote to the scratch slot in the ring, over the oldest token."""
        if self.ring:
            slot = self.filled + self.generated % self.ring
            self.buffers[:, :, :, slot] = self.written[:, :, :, 0 if self.fixed else self.reach - 1]
            self.bias[..., slot] = 0
        self.generated += 1


def fresh_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros in pages of their own, which take no memory before they are written to, and none once the array is gone.

    `np.zeros` does so at first only: a second utterance gets memory that was used before, cleared and therefore held.
    """
    count = math.prod(shape)
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    pages = mmap.mmap(-1, max(1, count * dtype.itemsize), **private)  # shared ones would be held once they are read
    return np.frombuffer(pages, dtype, count).reshape(shape)
