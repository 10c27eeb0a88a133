"""Who speaks: a classifier of known speakers, trained on clips of the reference and judged on clips it has not heard.

Linear discriminant analysis (equal priors, one shrunk covariance for all) over the mean and the standard deviation of
each mel cepstral coefficient c1..c13. It names the nearest known speaker, so it tells known ones apart and no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sottovoce.compress.evaluate.features import mel_cepstra
from sottovoce.runtime.session import Floats

FOLDS: Final = 5
SHRINKAGE: Final = 0.1
ACCURACY: Final = 0.98
"""Share of held-out reference clips that a classifier must name right before it may judge."""

Vectors = NDArray[np.float64]


def describe(audio: Floats) -> Vectors | None:
    """Mean and standard deviation of c1..c13 over the spoken part of a clip [S] at 16 kHz; None where it is silent."""
    cepstra = mel_cepstra(audio)
    return np.concatenate([cepstra.mean(0), cepstra.std(0)]) if len(cepstra) else None


@dataclass(frozen=True)
class SpeakerClassifier:
    """Scores of speaker n are x · weights[n] + bias[n]; `accuracy` is that on held-out clips, of which `clips` many."""

    names: tuple[str, ...]
    weights: Vectors
    bias: Vectors
    accuracy: float
    clips: int

    def name(self, audio: Floats) -> str | None:
        """The speaker of a clip [S] at 16 kHz; None where it is silent."""
        vector = describe(audio)
        return None if vector is None else self.names[int(np.argmax(self.weights @ vector + self.bias))]


def train(vectors: Vectors, speakers: Sequence[str], groups: Sequence[int]) -> SpeakerClassifier:
    """A classifier from clips described as `vectors` [N, 26], each of a speaker and a group (its sentence).

    Its accuracy is that of five others, each tested on the fifth of the groups that it was not trained on. Which fifth
    is drawn: in the order of a corpus, every fifth clip may be one speaker's.
    """
    names = tuple(sorted(set(speakers)))
    who, (known, group) = np.array([names.index(s) for s in speakers]), np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(known))[group] % FOLDS
    right = 0
    for held in range(FOLDS):
        test = fold == held
        weights, bias = _discriminants(vectors[~test], who[~test], len(names))
        right += int((np.argmax(vectors[test] @ weights.T + bias, 1) == who[test]).sum())
    return SpeakerClassifier(names, *_discriminants(vectors, who, len(names)), right / len(who), len(who))


def _discriminants(x: Vectors, who: NDArray[np.intp], count: int) -> tuple[Vectors, Vectors]:
    """Weights [count, M] and biases [count] of linear discriminants; a class without clips is never named."""
    scale = x.std(0) + 1e-9
    means = np.stack([x[who == n].mean(0) if (who == n).any() else np.full(x.shape[1], np.inf) for n in range(count)])
    seen = np.isfinite(means[:, 0])
    centred = (x - means[who]) / scale
    covariance = centred.T @ centred / len(x)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(len(scale))
    means = np.where(seen[:, None], means / scale, 0.0)
    weights = np.linalg.solve(covariance, means.T).T
    bias = np.where(seen, -0.5 * (weights * means).sum(1), -np.inf)
    return weights / scale, bias
