"""Logits → token, float32 throughout: the reference for every other runtime.

Order: repetition penalty → stop ids hidden below the minimum length → greedy, or temperature → top-k → top-p → one
uniform through the inverse CDF of probabilities sorted descending, ties by logit index → repetition-aware redraw.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sottovoce.errors import OptionError
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.philox import checked_seed, uniforms
from sottovoce.runtime.session import Floats, Ints

Indices = NDArray[np.intp]


def check_sampling(spec: SamplingSpec) -> None:
    """Raise OptionError where a value of `spec` makes no sense."""
    limits: tuple[tuple[str, bool, str], ...] = (
        ("temperature", 0 <= spec.temperature < float("inf"), "0 (greedy) or more"),
        ("top_k", spec.top_k >= 0, "0 (all) or more"),
        ("top_p", 0 < spec.top_p <= 1, "above 0 and at most 1"),
        ("repetition_penalty", 0 < spec.repetition_penalty < float("inf"), "above 0"),
        ("repetition_window", spec.repetition_window >= 0, "0 (off) or more"),
        ("ras_window", spec.ras_window >= 0, "0 (off) or more"),
        ("min_ratio", 0 <= spec.min_ratio <= spec.max_ratio, "0 or more and at most max_ratio"),
        ("max_extra", spec.max_extra >= 0, "0 or more"),
    )
    for name, ok, wanted in limits:
        if not ok:
            raise OptionError(f"sampling: {name} is {getattr(spec, name)}: {wanted} is needed")


def penalised(logits: Floats, recent: list[int], penalty: float) -> Floats:
    """A copy of `logits` [V'] with those of the indices in `recent` made less likely: l > 0 → l / p, else l · p."""
    result = logits.copy()
    if recent and penalty != 1:
        seen = np.unique(recent)
        chosen = result[seen]
        result[seen] = np.where(chosen > 0, chosen / np.float32(penalty), chosen * np.float32(penalty))
    return result


def descending(logits: Floats, top_k: int = 0) -> Indices:
    """Indices of the `top_k` largest (0: all) logits, largest first, ties by index."""
    if not 0 < top_k < len(logits):
        return np.argsort(-logits, kind="stable")
    smallest = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
    chosen = np.flatnonzero(logits >= smallest)
    return chosen[np.argsort(-logits[chosen], kind="stable")][:top_k]


def draw(logits: Floats, uniform: float, top_k: int = 0, top_p: float = 1.0) -> int:
    """An index of temperature-scaled `logits` by inverse CDF at `uniform`, from the top-k, then top-p survivors."""
    order = descending(logits, top_k)
    weights = np.exp(logits[order] - logits[order[0]])
    probabilities = weights / weights.sum()
    if top_p < 1:
        count = int(np.searchsorted(np.cumsum(probabilities), np.float32(top_p), side="left")) + 1
        probabilities = probabilities[:count] / probabilities[:count].sum()
    place = int(np.searchsorted(np.cumsum(probabilities), np.float32(uniform), side="right"))
    # Rounding can leave the last sum below the uniform, or a hidden logit behind the last visible one.
    return int(order[min(place, int(np.count_nonzero(probabilities)) - 1)])


class Sampler:
    """Draws the tokens of one utterance; keeps what it drew, for the repetition rules."""

    def __init__(self, spec: SamplingSpec, token_ids: Ints, stop: tuple[int, ...], seed: int, min_tokens: int) -> None:
        """`token_ids` [V'] names each logit; `stop` ids cannot be drawn for the first `min_tokens` tokens."""
        check_sampling(spec)
        self.spec = spec
        self.seed = checked_seed(seed)
        self.min_tokens = min_tokens
        self.token_ids = token_ids
        self.stop: NDArray[Any] = np.flatnonzero(np.isin(token_ids, stop))
        self.drawn: list[int] = []

    def draw(self, logits: Floats) -> int | None:
        """The next token id for `logits` [V'], or None for a stop id."""
        index = self._index(logits)
        self.drawn.append(index)
        return None if index in self.stop else int(self.token_ids[index])

    def _index(self, logits: Floats) -> int:
        """The next logit index."""
        spec = self.spec
        scores = penalised(logits, _last(self.drawn, spec.repetition_window), spec.repetition_penalty)
        if len(self.drawn) < self.min_tokens:
            scores[self.stop] = -np.inf
        if spec.temperature == 0:
            return int(np.argmax(scores))
        scores /= np.float32(spec.temperature)
        first, second = uniforms(self.seed, len(self.drawn))
        index = draw(scores, first, spec.top_k, spec.top_p)
        if spec.ras_window and _last(self.drawn, spec.ras_window).count(index) >= spec.ras_window * spec.ras_tau:
            index = draw(scores, second)
        return index


def _last(drawn: list[int], count: int) -> list[int]:
    """The last `count` items of `drawn`, none for 0."""
    return drawn[-count:] if count else []
