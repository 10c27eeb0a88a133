"""A prefix as a patch voice reads it: text token by token, the clip's codes in patches, a piece of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sottovoce.runtime.session import Ints


@dataclass(frozen=True)
class Piece:
    """Some positions of a prefix: `text` tokens and the clip's `patches` [n,k] from number `first` on.

    `source`: which of them stands at each position, patches counted behind the text (at least one token of it).
    """

    text: tuple[int, ...]
    patches: Ints
    first: int
    source: tuple[int, ...]


def cut_prefix(prefix: Sequence[int], codes: range, size: int, most: int) -> list[Piece]:
    """`prefix` in pieces of at most `most` positions; `codes` are the clip's ids, `size` of them a patch."""
    clip = [token for token in prefix if token in codes]
    patches = np.array(clip + [-1] * (-len(clip) % size), np.int64).reshape(-1, size)
    places, seen = list[int | None](), 0  # a token of text, or None for a patch
    for token in prefix:
        if token not in codes:
            places.append(token)
        else:
            places += [None] * (seen % size == 0)
            seen += 1
    pieces, first = list[Piece](), 0
    for start in range(0, len(places), most):
        chunk = places[start : start + most]
        text = tuple(place for place in chunk if place is not None)
        count = len(chunk) - len(text)
        pieces.append(Piece(text, patches[first : first + count], first, _order(chunk, max(1, len(text)))))
        first += count
    return pieces


def _order(chunk: Sequence[int | None], behind: int) -> tuple[int, ...]:
    """Each place's number: tokens of text counted from 0, patches from `behind`."""
    words, patches, source = 0, behind, []
    for place in chunk:
        source.append(patches if place is None else words)
        words, patches = words + (place is not None), patches + (place is None)
    return tuple(source)
