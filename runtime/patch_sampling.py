"""What the sampler inside a patch voice's graph is told, in memory that stays where it is for a whole utterance."""

import math
from typing import Final

import numpy as np

from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.philox import uniforms
from sottovoce.runtime.sampling import check_sampling
from sottovoce.runtime.session import Array, Ints
from sottovoce.runtime.utterance import Utterance

NEVER: Final = 1 << 62
"""A limit that no count reaches."""


class GraphSampling:
    """The inputs by name, and how many tokens were drawn."""

    def __init__(self, utterance: Utterance, logits: int, size: int) -> None:
        """For V' = `logits`, `size` tokens to a run; raises OptionError for values that make no sense."""
        spec = utterance.sampling
        check_sampling(spec)
        self.seed, self.min_tokens, self.drawn = utterance.seed, utterance.min_tokens, 0
        self.history: Ints = np.full(max(spec.repetition_window, spec.ras_window), -1, np.int64)
        self.feeds: dict[str, Array] = {
            **_rules(spec, logits),
            "logit_bias": np.zeros(logits, np.float32),
            "wait": np.zeros((), np.int64),
            "uniforms": np.empty((size, 2), np.float32),
            "history": self.history,
        }
        self._aim()

    def advance(self, count: int, history: Ints) -> None:
        """Account for a run that drew `count` tokens and says what is to be remembered."""
        self.drawn += count
        self.history[:] = history
        self._aim()

    def _aim(self) -> None:
        """The random numbers of the next tokens, and how many of them may not stop."""
        pairs = self.feeds["uniforms"]
        pairs[:] = [uniforms(self.seed, self.drawn + number) for number in range(len(pairs))]
        self.feeds["wait"][...] = max(0, self.min_tokens - self.drawn)


def _rules(spec: SamplingSpec, logits: int) -> dict[str, Array]:
    """What does not change during an utterance; greedy is a draw from the likeliest alone."""
    greedy = spec.temperature == 0
    redraws = spec.ras_window > 0 and not greedy
    return {
        "temperature": np.array(1 if greedy else spec.temperature, np.float32),
        "top_k": np.array([1 if greedy else min(spec.top_k or logits, logits)], np.int64),
        "top_p": np.array(1 if greedy else spec.top_p, np.float32),
        "repetition_penalty": np.array(spec.repetition_penalty, np.float32),
        "repetition_window": np.array(spec.repetition_window, np.int64),
        "ras_window": np.array(spec.ras_window, np.int64),
        "ras_limit": np.array(math.ceil(spec.ras_window * spec.ras_tau) if redraws else NEVER, np.int64),
    }
