"""Logits → token, float32 throughout: the reference for every other runtime.

Order: repetition penalty → stop ids hidden below the minimum length → greedy, or temperature → top-k → top-p → one
uniform through the inverse CDF of probabilities sorted descending, ties by logit index → repetition-aware redraw.
Softmax sums its weights in the order of the logits, or of the top-k survivors, largest first.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sottovoce.errors import OptionError
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.philox import checked_seed, uniforms
from sottovoce.runtime.session import Floats, Ints

Indices = NDArray[np.intp]

SORTED_FIRST: Final = 256
"""Logits a draw sorts before it looks whether they are enough; the next rounds sort SORTED_MORE times as many."""

SORTED_MORE: Final = 16

BLOCKS: Final = 4096
"""Of logits that lie as far apart: the largest of each tell which of all can be among the first few."""

LONGEST: Final = 1 << 24
"""More tokens than any window or utterance holds."""


def check_sampling(spec: SamplingSpec) -> None:
    """Raise OptionError where a value of `spec` makes no sense."""
    window_needed = spec.repetition_penalty == 1 or spec.repetition_window > 0
    limits: tuple[tuple[str, bool, str], ...] = (
        # Lower temperatures and stranger penalties leave float32 when logits are divided by them.
        ("temperature", spec.temperature == 0 or 1e-3 <= spec.temperature <= 1e3, "0 (greedy) or 0.001 to 1000"),
        ("top_k", spec.top_k >= 0, "0 (all) or more"),
        ("top_p", 0 < spec.top_p <= 1, "above 0 and at most 1"),
        ("repetition_penalty", 1e-3 <= spec.repetition_penalty <= 1e3, "0.001 to 1000, 1 for none"),
        ("repetition_window", 0 <= spec.repetition_window <= LONGEST, f"0 (off) to {LONGEST}"),
        ("repetition_window", window_needed, "1 or more (--repetition-window) with a repetition_penalty"),
        ("ras_window", 0 <= spec.ras_window <= LONGEST, f"0 (off) to {LONGEST}"),
        ("ras_tau", 0 < spec.ras_tau <= 1, "above 0 and at most 1"),
        ("min_ratio", 0 <= spec.min_ratio <= spec.max_ratio, "0 or more and at most max_ratio"),
        ("max_ratio", spec.max_ratio <= LONGEST, f"at most {LONGEST}"),
        ("max_extra", 0 <= spec.max_extra <= LONGEST, f"0 to {LONGEST}"),
    )
    for name, ok, wanted in limits:
        if not ok:
            raise OptionError(f"sampling: {name} is {str(getattr(spec, name))[:40]}: {wanted} is needed")


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
    chosen = shortlist(logits, top_k)
    return chosen[np.argsort(-logits[chosen], kind="stable")][:top_k]


def shortlist(logits: Floats, count: int) -> Indices:
    """Indices, ascending, of the `count` largest logits [V'], NaN counted among them, and of few others.

    Selecting from all takes a third of a millisecond of 65,536 on some processors. The largest of each of BLOCKS blocks
    do as well, from twice as many logits on and for up to an eighth: in the `count` blocks that have the largest of
    them, one logit at least reaches the least of these. All that equal that one come too, as many as they are.
    """
    rows = len(logits) // BLOCKS
    heads = logits[: rows * BLOCKS].reshape(rows, BLOCKS).max(0) if rows > 1 and 8 * count <= BLOCKS else logits
    return np.flatnonzero(~(logits < np.partition(heads, len(heads) - count)[len(heads) - count]))


def draw(logits: Floats, uniform: float, top_k: int = 0, top_p: float = 1.0) -> int:
    """An index of temperature-scaled `logits` by inverse CDF at `uniform`, from the top-k, then top-p survivors."""
    if 0 < top_k < len(logits):
        kept = descending(logits, top_k)
        return int(kept[draw(logits[kept], uniform, top_p=top_p)])
    top, probabilities, sums = _likeliest(logits, top_p if top_p < 1 else uniform)
    if top_p < 1:
        count = int(np.searchsorted(sums, np.float32(top_p), side="left")) + 1
        probabilities = probabilities[:count] / probabilities[:count].sum()
        sums = np.cumsum(probabilities)
    place = int(np.searchsorted(sums, np.float32(uniform), side="right"))
    # Rounding can leave the last sum below the uniform, or a hidden logit behind the last visible one.
    place = min(place, int(np.count_nonzero(probabilities)) - 1)
    return int(np.flatnonzero(logits == top[place])[place - int(np.argmax(top == top[place]))])


def _likeliest(logits: Floats, share: float) -> tuple[Floats, Floats, Floats]:
    """The largest `logits`, largest first, their probabilities and the sums of these: enough to pass `share`, if any.

    A speech head has tens of thousands of logits and a few hundred of them nearly all the probability. What is sorted
    are the values, which takes a thirtieth of the time that sorting their indices would.
    """
    largest = logits.max()
    total = np.exp(logits - largest).sum()
    count = min(SORTED_FIRST, len(logits))
    while True:
        cut = len(logits) - count
        top: Floats = -np.sort(-(_largest(logits, count) if cut else logits))
        probabilities: Floats = np.exp(top - largest) / total
        sums = np.cumsum(probabilities)
        if not cut or sums[-1] > np.float32(share):
            return top, probabilities, sums
        count = min(SORTED_MORE * count, len(logits))


def _largest(logits: Floats, count: int) -> Floats:
    """The `count` largest `logits`, in no order."""
    few: Floats = logits[shortlist(logits, count)]
    return np.partition(few, len(few) - count)[len(few) - count :] if len(few) > count else few


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
