"""A plain voice's graph over bound buffers: nothing is allocated for it from one step to the next."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.cache import HIDDEN, Cache
from sottovoce.runtime.coreml import CoremlStream
from sottovoce.runtime.limits import check_chunk, check_position, check_prefix
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.session import Array, Floats, Session
from sottovoce.runtime.utterance import Utterance

LENGTHS: Final = ("seqlens_k", "total_sequence_length")
"""Inputs that tell the fused op where it writes: the last slot that is read, and how many are."""

PREFILL_CHUNK: Final = 24
"""Prefix tokens run at once unless told otherwise: it bounds the activations."""


class Stream:
    """One utterance at a time on an open bundle: caches, bindings and position. Not shared between threads.

    A prefix of p ≤ P tokens takes slots and positions 0..p-1; generated token t takes position p + t.
    """

    def __init__(self, bundle: Bundle, prefill_chunk: int = PREFILL_CHUNK) -> None:
        """Allocate the buffers; a prefix is run `prefill_chunk` tokens at a time."""
        check_chunk(prefill_chunk)
        manifest = bundle.manifest
        self.cache = Cache(manifest.cache)
        self.max_position = manifest.max_position
        self.prefill_chunk = prefill_chunk
        self._session, self._prefill = bundle.decoder, bundle.prefill
        self._logits: Floats = np.empty(len(bundle.token_ids), np.float32)
        self._ids = np.empty((1, 1), np.int64)
        self._positions = np.empty((1, 1), np.int64)
        self._feeds: dict[str, Array] = {
            "input_ids": self._ids,
            "position_ids": self._positions,
            "attention_bias": self.cache.bias,
        }
        if self._prefill is None:
            self._feeds |= zip(LENGTHS, self.cache.lengths, strict=True)
        self._step = self._bind(self._session, self._feeds, self.cache.buffers, self.cache.written)

    @property
    def position(self) -> int:
        """Position of the token the next step takes."""
        return self.cache.filled + self.cache.generated

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Forget the last utterance and read the prefix `ids`; logits [V'] of the first token, until the next run.

        Raises TextError for a prefix that is empty or longer than the bundle's conditioning slots.
        """
        check_prefix(len(ids), min(self.cache.prefix, self.max_position))
        self.cache.init_state()
        if self._prefill is not None:
            self._prefill_whole(ids, self._prefill)
            return self._logits
        for start in range(0, len(ids), self.prefill_chunk):
            self._prefill_chunk(np.array([ids[start : start + self.prefill_chunk]], np.int64), start)
        return self._logits

    def _prefill_whole(self, ids: Sequence[int], graph: Session) -> None:
        """Run `ids` through the `graph` for prefixes: P of them, whatever stands behind the real ones."""
        prefix = self.cache.prefix
        padded = np.zeros((1, prefix), np.int64)
        padded[0, : len(ids)] = ids
        feeds = {**self._chunk(padded, 0), "seqlens_k": np.array([len(ids) - 1], np.int32)}
        graph.run_with_iobinding(self._bind(graph, feeds, None, self.cache.buffers))
        self.cache.fill(len(ids))

    def _prefill_chunk(self, ids: Array, start: int) -> None:
        """Run `ids` [1, T] into slots start..start+T-1."""
        total = start + ids.shape[1]
        lengths = np.array([total - 1], np.int32), np.array(total, np.int32)
        feeds = {**self._chunk(ids, start), **dict(zip(LENGTHS, lengths, strict=True))}
        buffers = self.cache.buffers
        self._session.run_with_iobinding(self._bind(self._session, feeds, buffers, buffers))
        self.cache.fill(ids.shape[1])

    @staticmethod
    def _chunk(ids: Array, start: int) -> dict[str, Array]:
        """Inputs for `ids` [1, T] at slot and position `start`, each of which sees those before it."""
        total = start + ids.shape[1]
        positions = np.arange(start, total, dtype=np.int64)[None]
        bias = np.where(np.arange(total) > positions[0, :, None], HIDDEN, np.float32(0))[None, None]
        return {"input_ids": ids, "position_ids": positions, "attention_bias": bias}

    def step(self, token: int) -> Floats:
        """Feed generated `token`; logits [V'] of the one after it, valid until the next run.

        Raises TextError past the last position the graph was exported for.
        """
        check_position(self.position, self.max_position)
        self._ids[0, 0] = token
        self._positions[0, 0] = self.position
        if self.cache.aim():
            bind_bias(self._step, self.cache)
        self._session.run_with_iobinding(self._step)
        self.cache.advance()
        return self._logits

    def _bind(self, graph: Session, feeds: dict[str, Array], past: Array | None, present: Array) -> Any:
        """`graph` bound to `feeds`, to caches it reads and writes, and to the logits; it keeps no `feeds` alive."""
        binding = graph.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, (1, 1, len(self._logits)), self._logits.ctypes.data)
        for row, written in enumerate(present):
            name = f"{row // 2}.{'value' if row % 2 else 'key'}"
            binding.bind_output(f"present.{name}", "cpu", 0, written.dtype, written.shape, written.ctypes.data)
            if past is not None:
                read = past[row]
                binding.bind_input(f"past_key_values.{name}", "cpu", 0, read.dtype, read.shape, read.ctypes.data)
        return binding


def bind_bias(binding: Any, cache: Cache) -> None:
    """Have a step of `cache` read as many slots as it reaches."""
    bias = cache.bias[..., : cache.reach]
    binding.bind_input("attention_bias", "cpu", 0, bias.dtype, bias.shape, bias.ctypes.data)


def open_stream(bundle: Bundle, prefill_chunk: int = PREFILL_CHUNK) -> Stream | CoremlStream:
    """A stream on `bundle`; a Core ML package has its own length of chunk."""
    if bundle.coreml is not None:
        return CoremlStream(bundle.coreml, bundle.manifest)
    return Stream(bundle, prefill_chunk)


class TokenSource:
    """The `Source` of a plain voice: a step says one token, drawn from the graph's logits."""

    size: Final = 1

    def __init__(self, bundle: Bundle, prefill_chunk: int = PREFILL_CHUNK) -> None:
        """Allocate the buffers of a stream."""
        self.stream = open_stream(bundle, prefill_chunk)
        self.max_position = self.stream.max_position
        self._bundle = bundle
        self._token = 0

    @property
    def position(self) -> int:
        """See `Source`."""
        return self.stream.position

    @property
    def nbytes(self) -> int:
        """See `Source`."""
        return self.stream.cache.nbytes

    def begin(self, utterance: Utterance) -> list[int]:
        """See `Source`."""
        ids, stop = self._bundle.token_ids, self._bundle.voice.prompt.stop
        self._sampler = Sampler(utterance.sampling, ids, stop, utterance.seed, utterance.min_tokens)
        return self._draw(self.stream.prefill(utterance.prefix))

    def step(self) -> list[int]:
        """See `Source`."""
        return self._draw(self.stream.step(self._token))

    def _draw(self, logits: Floats) -> list[int]:
        """The token that `logits` make, if it is none that stops."""
        token = self._sampler.draw(logits)
        if token is None:
            return []
        self._token = token
        return [token]
