"""Code shards → training batches, drawn from a seed and a step number: a run that resumes sees what it would have
seen."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from examples.reference_voice import layout
from examples.reference_voice.speech import NUMBER
from sottovoce.runtime.text.frontend import LexiconFrontend
from sottovoce.runtime.text.lexicon import Lexicon

SPELL = 0.06
"""Share of words given letter by letter, so that words outside the lexicon can be."""


@dataclass
class Batch:
    """`ids` [B,T] int64; `targets` [B,T] int64, -100 where nothing is to be learned; both right-padded.

    `prefixes`: length of each row's prefix. `places`: of each row and code, the text column (its BEGIN is 0) that is
    said there. `seed`: what is drawn while it is learned starts from it.
    """

    ids: Tensor
    targets: Tensor
    prefixes: list[int]
    places: list[np.ndarray]
    seed: int


class Corpus:
    """Utterances of code shards, sorted by length."""

    def __init__(self, paths: list[Path], lexicon: Path) -> None:
        """Read the shards; every utterance knows which others share its speaker."""
        self.frontend = LexiconFrontend(layout.SYMBOLS, Lexicon(lexicon))
        self.codes: list[np.ndarray] = []
        self.phones: list[np.ndarray] = []
        self.words: list[list[str]] = []
        voices: list[str] = []
        for path in paths:
            shard = np.load(path)
            self.codes += np.split(shard["codes"], shard["ends"][:-1])
            self.phones += np.split(shard["phones"], shard["ends"][:-1])
            self.words += [re.findall(r"[a-z']+|[.,?]", t.lower()) for t in shard["texts"]]
            voices += shard["speakers"].tolist()
        # Sorted by what a row takes in all, so that a batch of neighbours pads little.
        spans = [len(c) + self.text_length(w) for c, w in zip(self.codes, self.words, strict=True)]
        order = np.argsort(spans, kind="stable")
        self.codes = [self.codes[i] for i in order]
        self.phones = [self.phones[i] for i in order]
        self.words = [self.words[i] for i in order]
        self.voice = np.array(voices)[order]
        self.spans = np.array(spans)[order]
        self.members = {v: np.flatnonzero(self.voice == v) for v in set(voices)}

    def text_length(self, words: list[str]) -> int:
        """Symbols of `words`, none spelled."""
        return sum(1 if w in ",.?" else 1 + len(self.frontend.symbols_of(w)) for w in words)

    def text(self, words: list[str], rng: np.random.Generator) -> tuple[list[int], list[tuple[int, int]]]:
        """Symbols of `words`, some of them spelled; and the phone labels to be said, each with its column."""
        names: list[str] = []
        said: list[tuple[int, int]] = []
        for word in words:
            spelled = len(word) > 1 and rng.random() < SPELL
            names += [] if word in ",.?" else [" "]
            phones = self.frontend.symbols_of(word)
            symbols = self.frontend.spelling(word) if spelled else phones
            first = len(names) + 1  # BEGIN comes before
            said += [(NUMBER.get(p, 0), first + i * len(symbols) // len(phones)) for i, p in enumerate(phones)]
            names += symbols
        return [layout.SYMBOLS[n] for n in names], said

    def clip(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Codes of a stretch of another utterance of the same speaker."""
        other = self.codes[rng.choice(self.members[self.voice[index]])]
        count = min(len(other), int(rng.integers(layout.MIN_PROMPT, layout.MAX_PROMPT + 1)))
        start = rng.integers(len(other) - count + 1)
        return other[start : start + count]

    def row(self, index: int, rng: np.random.Generator) -> tuple[list[int], int, np.ndarray]:
        """Ids of one utterance with its prefix, that one's length, and the places of its codes (see `Batch`)."""
        text, said = self.text(self.words[index], rng)
        prefix = [layout.BEGIN, *text, layout.PROMPT, *self.clip(index, rng).tolist(), layout.SPEECH]
        ids = [*prefix, *self.codes[index].tolist(), layout.STOP]
        return ids, len(prefix), places(self.phones[index].tolist(), said)

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
        length = max(len(ids) for ids, _, _ in rows) - 1
        ids = np.full((len(rows), length), layout.MASK)
        targets = np.full((len(rows), length), -100)
        for i, (row, prefix, _) in enumerate(rows):
            ids[i, : len(row) - 1] = row[:-1]
            targets[i, prefix - 1 : len(row) - 1] = row[prefix:]
            hidden = rng.random(len(row) - 1 - prefix) < rng.uniform(0, mask)
            ids[i, prefix : len(row) - 1][hidden] = layout.MASK
        _, prefixes, placed = zip(*rows, strict=True)
        return Batch(
            torch.from_numpy(ids), torch.from_numpy(targets), list(prefixes), list(placed), int(rng.integers(2**31))
        )


def places(phones: list[int], said: list[tuple[int, int]]) -> np.ndarray:
    """The column of the text that is said at each code, by aligning the codes' phone labels with what is to be said.

    `said`: labels and columns in order. Flite's phones depend on their neighbours, so they match most of the time only.
    """
    starts = [i for i, p in enumerate(phones) if i == 0 or p != phones[i - 1]]
    columns, column = np.zeros(len(phones), np.int64), said[0][1]
    ends = [*starts[1:], len(phones)]
    for run in Levenshtein.opcodes([p for p, _ in said], [phones[i] for i in starts]):
        for offset, segment in enumerate(range(run.dest_start, run.dest_end)):
            column = column if run.tag == "insert" else said[run.src_start + offset][1]
            columns[starts[segment] : ends[segment]] = column
    return columns
