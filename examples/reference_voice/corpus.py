"""Code shards → training batches, drawn from a seed and a step number: a run that resumes sees what it would have
seen."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.reference_voice import layout
from sottovoce.runtime.text.frontend import LexiconFrontend
from sottovoce.runtime.text.lexicon import Lexicon

SPELL = 0.06
"""Share of words given letter by letter, so that words outside the lexicon can be."""


@dataclass
class Batch:
    """`ids` [B,T] int64; `targets` [B,T] int64, -100 where nothing is to be learned; both right-padded.

    `spans`: text symbols, prefix length and speech codes of each row.
    """

    ids: Tensor
    targets: Tensor
    spans: list[tuple[int, int, int]]


class Corpus:
    """Utterances of code shards, sorted by length."""

    def __init__(self, paths: list[Path], lexicon: Path) -> None:
        """Read the shards; every utterance knows which others share its speaker."""
        self.frontend = LexiconFrontend(layout.SYMBOLS, Lexicon(lexicon))
        self.codes: list[np.ndarray] = []
        self.words: list[list[str]] = []
        voices: list[str] = []
        for path in paths:
            shard = np.load(path)
            self.codes += np.split(shard["codes"], shard["ends"][:-1])
            self.words += [re.findall(r"[a-z']+|[.,?]", t.lower()) for t in shard["texts"]]
            voices += shard["speakers"].tolist()
        # Sorted by what a row takes in all, so that a batch of neighbours pads little.
        spans = [len(c) + self.text_length(w) for c, w in zip(self.codes, self.words, strict=True)]
        order = np.argsort(spans, kind="stable")
        self.codes = [self.codes[i] for i in order]
        self.words = [self.words[i] for i in order]
        self.voice = np.array(voices)[order]
        self.spans = np.array(spans)[order]
        self.members = {v: np.flatnonzero(self.voice == v) for v in set(voices)}

    def text_length(self, words: list[str]) -> int:
        """Symbols of `words`, none spelled."""
        return sum(1 if w in ",.?" else 1 + len(self.frontend.symbols_of(w)) for w in words)

    def text_ids(self, words: list[str], rng: np.random.Generator) -> list[int]:
        """Symbols of `words`, some of them spelled."""
        names: list[str] = []
        for word in words:
            spelled = len(word) > 1 and rng.random() < SPELL
            names += [] if word in ",.?" else [" "]
            names += self.frontend.spelling(word) if spelled else self.frontend.symbols_of(word)
        return [layout.SYMBOLS[n] for n in names]

    def clip(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Codes of a stretch of another utterance of the same speaker."""
        other = self.codes[rng.choice(self.members[self.voice[index]])]
        count = min(len(other), int(rng.integers(layout.MIN_PROMPT, layout.MAX_PROMPT + 1)))
        start = rng.integers(len(other) - count + 1)
        return other[start : start + count]

    def row(self, index: int, rng: np.random.Generator) -> tuple[list[int], tuple[int, int, int]]:
        """Ids of one utterance with its prefix, and its spans (see `Batch`)."""
        text = self.text_ids(self.words[index], rng)
        prefix = [layout.BEGIN, *text, layout.PROMPT, *self.clip(index, rng).tolist(), layout.SPEECH]
        codes = self.codes[index].tolist()
        return [*prefix, *codes, layout.STOP], (len(text), len(prefix), len(codes))

    def batch(self, rng: np.random.Generator, tokens: int, longest: int, mask: float) -> Batch:
        """Utterances of like length, about `tokens` positions in all, none over `longest` codes and text symbols."""
        count = max(1, int(np.searchsorted(self.spans, longest, side="right")))
        centre = int(rng.choice(count, p=self.spans[:count] / self.spans[:count].sum()))
        size = max(1, tokens // (int(self.spans[centre]) + (layout.MIN_PROMPT + layout.MAX_PROMPT) // 2))
        near = np.arange(max(0, centre - 40 * size), min(count, centre + 40 * size))
        return self.collate(rng.choice(near, min(size, len(near)), replace=False), rng, mask)

    def collate(self, indices: np.ndarray, rng: np.random.Generator, mask: float) -> Batch:
        """Rows of `indices` as one padded batch; each row hides its own share of history, up to `mask`."""
        rows = [self.row(int(i), rng) for i in indices]
        length = max(len(ids) for ids, _ in rows) - 1
        ids = np.full((len(rows), length), layout.MASK)
        targets = np.full((len(rows), length), -100)
        for i, (row, (_, prefix, _)) in enumerate(rows):
            ids[i, : len(row) - 1] = row[:-1]
            targets[i, prefix - 1 : len(row) - 1] = row[prefix:]
            hidden = rng.random(len(row) - 1 - prefix) < rng.uniform(0, mask)
            ids[i, prefix : len(row) - 1][hidden] = layout.MASK
        return Batch(torch.from_numpy(ids), torch.from_numpy(targets), [spans for _, spans in rows])
