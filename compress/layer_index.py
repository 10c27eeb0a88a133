"""Which layers a decoder can spare: an index of each layer's importance, and the order in which layers go.

Knows no way of measuring: `cosine_index.py` and `wer_index.py` do. Numbers of layers are those of the whole decoder.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sottovoce.errors import BundleError, OptionError
from sottovoce.models.checkpoint import write_atomic
from sottovoce.runtime.parse import parse
from sottovoce.runtime.strict_json import read_json

Kind = Literal["wer", "cosine"]
Ranking = Literal["one-shot", "iterative"]


@dataclass(frozen=True)
class Score:
    """What skipping `layer` costs, the more the higher; `low` and `high` are its 95 % interval where there is one."""

    layer: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Round:
    """Scores of the layers that are left once `dropped` are gone; `whole` is the score of skipping none of them."""

    dropped: tuple[int, ...]
    scores: tuple[Score, ...]
    whole: float | None = None

    def order(self) -> list[int]:
        """Layers, the least important first; of equal ones the later."""
        return [score.layer for score in sorted(self.scores, key=lambda score: (score.value, -score.layer))]


Measure = Callable[[tuple[int, ...], tuple[int, ...]], Round]
"""(layers that are gone, layers that are left) → their round."""


@dataclass(frozen=True)
class LayerIndex:
    """The index of a decoder of `layers` layers: word error rates (shares of 1), or 1 − cosine.

    One-shot: one round over all layers. Iterative: a round after each layer that goes. `voice` is the hash of the
    weights, `source` says in words what was measured on, `utterances` how many.
    """

    kind: Kind
    ranking: Ranking
    voice: str
    layers: int
    source: str
    utterances: int
    rounds: tuple[Round, ...]

    def order(self) -> list[int]:
        """Layers in the order in which they go: all of them, or as many as there were rounds."""
        return self.rounds[0].order() if self.ranking == "one-shot" else [r.order()[0] for r in self.rounds]

    def kept(self, keep: int) -> tuple[int, ...]:
        """The `keep` layers that stay; OptionError where an iterative index was not measured that far."""
        gone = self.order()[: self.layers - keep]
        if len(gone) < self.layers - keep:
            raise OptionError(f"--keep {keep}: this index was measured down to {self.layers - len(gone)} layers")
        return tuple(i for i in range(self.layers) if i not in gone)

    def last_scores(self) -> list[Score]:
        """For each layer the last score that it was given."""
        return sorted({score.layer: score for r in self.rounds for score in r.scores}.values(), key=lambda s: s.layer)


def measure_rounds(measure: Measure, layers: int, keep: int | None, ranking: Ranking) -> tuple[Round, ...]:
    """One round over all layers, or one for each of the layers that go until `keep` (None: one) are left."""
    rounds: list[Round] = []
    dropped: tuple[int, ...] = ()
    for _ in range(1 if ranking == "one-shot" else layers - (keep or 1)):
        rounds.append(measure(dropped, tuple(i for i in range(layers) if i not in dropped)))
        dropped = (*dropped, rounds[-1].order()[0])
    return tuple(rounds)


def write_index(index: LayerIndex, path: Path) -> None:
    """`index` as JSON; OutputError where the disk refuses."""
    text = json.dumps(asdict(index), indent=1) + "\n"
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_index(path: Path, voice: str, layers: int) -> LayerIndex:
    """The index in `path` of a voice of `layers` layers, whose weights have the hash `voice`.

    Raises OptionError where there is none, it is another voice's, or its rounds do not follow from each other.
    """
    try:
        index: LayerIndex = parse(LayerIndex, read_json(path), str(path))
    except BundleError as error:
        raise OptionError(f"--index: {error}") from None
    if (index.voice, index.layers) != (voice, layers):
        raise OptionError(f"--index: {path} was measured on other weights: measure this voice's own (--report)")
    most = 1 if index.ranking == "one-shot" else layers - 1
    if not 1 <= len(index.rounds) <= most:
        raise OptionError(f"--index: {path} has {len(index.rounds)} rounds, {index.ranking} has 1 to {most}")
    dropped: tuple[int, ...] = ()
    for number, found in enumerate(index.rounds, 1):
        left = [i for i in range(layers) if i not in dropped]
        if found.dropped != dropped or [score.layer for score in found.scores] != left:
            raise OptionError(f"--index: {path}: round {number} does not follow from the one before")
        dropped = (*dropped, found.order()[0])
    return index
