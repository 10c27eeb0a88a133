"""A pronunciation lexicon searched in place: a sorted file, mapped, never loaded into a dictionary.

125 thousand entries as a Python dictionary would hold about 30 MB resident; the mapped file holds the pages that were
looked at.
"""

import mmap
from functools import lru_cache
from pathlib import Path

from sottovoce.errors import BundleError


class Lexicon:
    """Phones of words, from a file of `word<TAB>phone phone …` lines sorted by bytes."""

    def __init__(self, path: Path) -> None:
        """Map `path`; raises BundleError where it is missing or empty."""
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from None
        self.phones = lru_cache(maxsize=1024)(self._phones)

    def __contains__(self, word: str) -> bool:
        """Whether `word` has an entry."""
        return self.phones(word) is not None

    def _phones(self, word: str) -> tuple[str, ...] | None:
        """Phones of `word`, None where it has no entry: a binary search for its line."""
        key = word.encode() + b"\t"
        low, high = 0, len(self._bytes)
        while low < high:
            middle = (low + high) // 2
            start = self._bytes.rfind(b"\n", low, middle) + 1 or low
            end = self._bytes.find(b"\n", middle)
            line = self._bytes[start : end if end >= 0 else high]
            if line.startswith(key):
                return tuple(line[len(key) :].decode(errors="replace").split())
            if line[: line.find(b"\t") + 1] < key:
                low = start + len(line) + 1
            else:
                high = start
        return None
