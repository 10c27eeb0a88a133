"""The decode loop of one utterance over bound buffers: nothing is allocated for the graph from one step to the next."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np

from sottovoce.errors import OptionError, TextError
from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.cache import HIDDEN, Cache
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.session import Array, Floats

Stopped = Literal["stop token", "max length", "max position"]
"""Why an utterance ended."""


PREFILL_CHUNK: Final = 64
"""Prefix tokens run at once unless told otherwise: it bounds the activations, and longer chunks are no faster."""


class Stream:
    """One utterance at a time on an open bundle: caches, bindings and position. Not shared between threads.

    A prefix of p ≤ P tokens takes slots and positions 0..p-1; generated token t takes position p + t.
    """

    def __init__(self, bundle: Bundle, prefill_chunk: int = PREFILL_CHUNK) -> None:
        """Allocate the buffers; a prefix is run `prefill_chunk` tokens at a time."""
        if prefill_chunk < 1:
            raise OptionError(f"--prefill-chunk {prefill_chunk}: at least 1 token is needed")
        manifest = bundle.manifest
        self.cache = Cache(manifest.cache)
        self.max_position = manifest.max_position
        self.prefill_chunk = prefill_chunk
        self._session = bundle.decoder
        self._logits: Floats = np.empty(len(bundle.token_ids), np.float32)
        self._ids = np.empty((1, 1), np.int64)
        self._positions = np.empty((1, 1), np.int64)
        slots = self.cache.bias.shape[-1]
        self._lengths = np.array([slots - 1], np.int32), np.array(slots, np.int32)
        feeds = self._feeds(self._ids, self._positions, *self._lengths, self.cache.bias)
        # One binding per set the run reads: swapping sets is then a matter of choosing a binding.
        self._bindings = [
            self._bind(feeds, past, len(self.cache.sets) - 1 - past) for past in range(len(self.cache.sets))
        ]

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
        for start in range(0, len(ids), self.prefill_chunk):
            self._prefill_chunk(np.array([ids[start : start + self.prefill_chunk]], np.int64), start)
        return self._logits

    def _prefill_chunk(self, ids: Array, start: int) -> None:
        """Run `ids` [1, T] into slots start..start+T-1."""
        count = ids.shape[1]
        total = start + count
        positions = np.arange(start, total, dtype=np.int64)[None]
        bias = np.where(np.arange(total) > positions[0, :, None], HIDDEN, np.float32(0))[None, None]
        feeds = self._feeds(ids, positions, np.array([total - 1], np.int32), np.array(total, np.int32), bias)
        self._session.run_with_iobinding(self._bind(feeds, self.cache.past, self.cache.present))
        self.cache.fill(count)

    def step(self, token: int) -> Floats:
        """Feed generated `token`; logits [V'] of the one after it, valid until the next run.

        Raises TextError past the last position the graph was exported for.
        """
        position = self.position
        if position >= self.max_position:
            raise TextError(
                f"position {position} is past the graph's last one, {self.max_position - 1}: shorten the text"
            )
        self._ids[0, 0] = token
        self._positions[0, 0] = position
        self._session.run_with_iobinding(self._bindings[self.cache.past])
        self.cache.advance()
        return self._logits

    @staticmethod
    def _feeds(ids: Array, positions: Array, seqlens: Array, total: Array, bias: Array) -> dict[str, Array]:
        """The graph's small inputs by name."""
        return {
            "input_ids": ids,
            "position_ids": positions,
            "seqlens_k": seqlens,
            "total_sequence_length": total,
            "attention_bias": bias,
        }

    def _bind(self, feeds: dict[str, Array], past: int, present: int) -> Any:
        """The graph bound to `feeds`, sets `past` and `present` and the logits; it does not keep `feeds` alive."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, (1, 1, len(self._logits)), self._logits.ctypes.data)
        for row, (read, written) in enumerate(zip(self.cache.sets[past], self.cache.sets[present], strict=True)):
            name = f"{row // 2}.{'value' if row % 2 else 'key'}"
            binding.bind_input(f"past_key_values.{name}", "cpu", 0, read.dtype, read.shape, read.ctypes.data)
            binding.bind_output(f"present.{name}", "cpu", 0, written.dtype, written.shape, written.ctypes.data)
        return binding


def check_prefix(count: int, allowed: int) -> None:
    """Raise TextError unless a prefix of `count` tokens fits the `allowed` slots."""
    if count < 1:
        raise TextError("the prefix is empty: there is nothing to say")
    if count > allowed:
        raise TextError(
            f"text and prompt need {count} prefix tokens and this bundle holds {allowed}: "
            f"shorten them, or export with --prefix {count}"
        )


class Generation:
    """The tokens of one utterance, one at a time; `stopped` says why it ended.

    `prefill_seconds` and each of `step_seconds` hold a run of the graph and the draw of the token that follows from it.
    """

    def __init__(self, stream: Stream, prefix: Sequence[int], sampler: Sampler, max_tokens: int) -> None:
        """Speak after `prefix` until `sampler` draws one of its stop ids, at most `max_tokens` tokens."""
        self.stream = stream
        self.prefix = prefix
        self.sampler = sampler
        self.max_tokens = max_tokens
        self.tokens: list[int] = []
        self.stopped: Stopped = "max length"
        self.prefill_seconds = 0.0
        self.step_seconds: list[float] = []

    def __iter__(self) -> Iterator[int]:
        """Yield token ids, without the stop id."""
        start = time.perf_counter()
        token = self.sampler.draw(self.stream.prefill(self.prefix))
        self.prefill_seconds = time.perf_counter() - start
        while token is not None:
            self.tokens.append(token)
            yield token
            if len(self.tokens) >= self.max_tokens:
                return
            if self.stream.position >= self.stream.max_position:
                self.stopped = "max position"
                return
            start = time.perf_counter()
            token = self.sampler.draw(self.stream.step(token))
            self.step_seconds.append(time.perf_counter() - start)
        self.stopped = "stop token"
