"""The compressor's cache of one stream of a patch voice: which token lies where. Knows nothing of graphs.

slot   0 ............ w-2 | w-1 ....... w+k-2
       ring of the last     scratch: the graph writes
       w-1 tokens           the k tokens of a patch here

While the prefix is read the clip's tokens, a stream of their own, take slots from 0 on.
"""

import numpy as np

from sottovoce.runtime.cache import DTYPES, HIDDEN
from sottovoce.runtime.manifest import CacheGroup
from sottovoce.runtime.patch_contract import COMPRESSOR
from sottovoce.runtime.session import Array


class CompressorCache:
    """Key and value buffers, and what tells the graph which of their slots it may see."""

    def __init__(self, group: CacheGroup, window: int, size: int) -> None:
        """Allocate zeros for `group`; a token sees `window` tokens, and `size` of them are written at a time."""
        shape = (2 * group.layers, 1, group.kv_heads, group.slots, group.head_dim)
        self.buffers: Array = np.zeros(shape, DTYPES[group.dtype])
        self.window, self.size, self.ring = window, size, window - 1
        self.said = np.empty((1, size), np.int64), np.empty((1, 1, size, self.ring + size), np.float32)
        """Positions and attention bias of the next patch."""
        self.begin()

    @property
    def nbytes(self) -> int:
        """Bytes of all key and value buffers."""
        return self.buffers.nbytes

    def begin(self) -> None:
        """Nothing was said yet: no slot can be seen, whatever a clip or another utterance has left there."""
        self._held = np.full(self.ring, -1, np.int64)
        self._look(0)

    def clip_feeds(self, start: int, count: int) -> dict[str, Array]:
        """Inputs for tokens `start` to start + count - 1 of the clip."""
        positions, held = np.arange(start, start + count), np.arange(start + count)
        return _feeds(positions[None], self._bias(positions, held)[None, None])

    def said_feeds(self) -> dict[str, Array]:
        """Inputs for a patch of what is said, the same memory for every patch."""
        return _feeds(*self.said)

    def advance(self) -> None:
        """Account for a run: token t of the patch it wrote moves to slot t mod (w − 1), over the oldest."""
        start = int(self.said[0][0, 0])
        for behind in range(self.size if self.ring else 0):
            slot = (start + behind) % self.ring
            self.buffers[:, :, :, slot] = self.buffers[:, :, :, self.ring + behind]
            self._held[slot] = start + behind
        self._look(start + self.size)

    def _look(self, start: int) -> None:
        """What the patch whose first token stands at `start` may see."""
        positions, bias = self.said
        positions[0] = np.arange(start, start + self.size)
        bias[0, 0] = self._bias(positions[0], np.append(self._held, positions[0]))

    def _bias(self, positions: Array, held: Array) -> Array:
        """[len(positions), len(held)]: 0 where a slot's token, -1 for none, is in sight of the token at a position."""
        ages = positions[:, None] - held
        return np.where((held >= 0) & (ages >= 0) & (ages < self.window), np.float32(0), HIDDEN)


def _feeds(positions: Array, bias: Array) -> dict[str, Array]:
    """The compressor's inputs by name."""
    total = bias.shape[-1]
    return {
        f"{COMPRESSOR}position_ids": positions,
        f"{COMPRESSOR}seqlens_k": np.array([total - 1], np.int32),
        f"{COMPRESSOR}total_sequence_length": np.array(total, np.int32),
        f"{COMPRESSOR}attention_bias": bias,
    }
