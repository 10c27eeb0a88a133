"""One utterance, token by token, whatever kind of voice says it: the loop, and what it asks of a voice."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from sottovoce.runtime.manifest import SamplingSpec

Stopped = Literal["stop token", "max length", "max position"]
"""Why an utterance ended."""


@dataclass(frozen=True)
class Utterance:
    """What is to be said: token ids of the `prefix`, and how the tokens after it are drawn; lengths in tokens."""

    prefix: tuple[int, ...]
    sampling: SamplingSpec
    seed: int
    min_tokens: int
    max_tokens: int


class Source(Protocol):
    """Says one utterance at a time, `size` tokens with each run of the graph. Not shared between threads."""

    @property
    def size(self) -> int:
        """Tokens of a run, k."""
        ...

    @property
    def max_position(self) -> int:
        """Positions that the graph knows."""
        ...

    @property
    def position(self) -> int:
        """Position of what the next step reads."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        ...

    def begin(self, utterance: Utterance) -> list[int]:
        """Forget the last utterance and read the prefix; its first `size` tokens, fewer where a stop was drawn.

        Raises TextError for a prefix that does not fit.
        """
        ...

    def step(self) -> list[int]:
        """Read what was said last; the next `size` tokens, fewer where a stop was drawn."""
        ...


class Generation:
    """The tokens of one utterance, one at a time; `stopped` says why it ended.

    `prefill_seconds` and each of `step_seconds` hold the graph's run and the draw of the tokens that follow from it.
    """

    def __init__(self, source: Source, utterance: Utterance) -> None:
        """Let `source` say it until a stop id is drawn, at most `max_tokens` tokens."""
        self.source = source
        self.utterance = utterance
        self.tokens: list[int] = []
        self.stopped: Stopped = "max length"
        self.prefill_seconds = 0.0
        self.step_seconds: list[float] = []

    def __iter__(self) -> Iterator[int]:
        """Yield token ids, without the stop id."""
        start = time.perf_counter()
        said = self.source.begin(self.utterance)
        self.prefill_seconds = time.perf_counter() - start
        while True:
            for token in said:
                self.tokens.append(token)
                yield token
                if len(self.tokens) >= self.utterance.max_tokens:
                    return
            if len(said) < self.source.size:
                self.stopped = "stop token"
                return
            if self.source.position >= self.source.max_position:
                self.stopped = "max position"
                return
            start = time.perf_counter()
            said = self.source.step()
            self.step_seconds.append(time.perf_counter() - start)
