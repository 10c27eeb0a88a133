"""A prefix as a patch voice reads it: text token by token, the clip's codes in patches, a piece of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sottovoce.runtime.session import Ints


@dataclass(frozen=True)
class Piece:
    """Some places of a prefix: `text` tokens and the clip's `patches` [n,k] from number `first` on.

    `source`: which of them stands at each place, patches counted behind the text (at least one token of it);
    `positions`: where in the prefix the last token of each stands.
    """

    text: tuple[int, ...]
    patches: Ints
    first: int
    source: tuple[int, ...]
    positions: tuple[int, ...]


def cut_prefix(prefix: Sequence[int], codes: range, size: int, most: int) -> list[Piece]:
    """`prefix` in pieces of at most `most` places; `codes` are the clip's ids, `size` of them a patch.

    The first piece ends before positions jump, as `patch_contract.py` asks for.
    """
    clip = [token for token in prefix if token in codes]
    patches = np.array(clip + [-1] * (-len(clip) % size), np.int64).reshape(-1, size)
    places, ends, seen = list[int | None](), list[int](), 0  # a token of text, or None for a patch
    for position, token in enumerate(prefix):
        begins = token not in codes or seen % size == 0
        places += [None if token in codes else token] * begins
        ends[len(places) - 1 :] = [position]
        seen += token in codes
    pieces, first = list[Piece](), 0
    begun = next((n for n in range(1, len(ends)) if ends[n] > ends[n - 1] + 1), most)
    starts = [0, *range(min(begun, most), len(places), most)]
    for start, end in pairwise([*starts[: len(places)], len(places)]):
        chunk = places[start:end]
        text = tuple(place for place in chunk if place is not None)
        count = len(chunk) - len(text)
        source, positions = _order(chunk, max(1, len(text))), tuple(ends[start:end])
        pieces.append(Piece(text, patches[first : first + count], first, source, positions))
        first += count
    return pieces


def _order(chunk: Sequence[int | None], behind: int) -> tuple[int, ...]:
    """Each place's number: tokens of text counted from 0, patches from `behind`."""
    words, patches, source = 0, behind, []
    for place in chunk:
        source.append(patches if place is None else words)
        words, patches = words + (place is not None), patches + (place is None)
    return tuple(source)
