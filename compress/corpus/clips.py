"""Reference clips for training: which stretch of which other utterance of the same speaker stands in a prefix.

Where the voice's layout has the clip's codes alone, a clip is a stretch of an utterance, as long as a draw says; where
it has the clip's words as well, a clip is a whole utterance, since nobody knows where in it a word ends.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from sottovoce.compress.corpus.tokens import Spoken
from sottovoce.models.voice import VoiceSpec
from sottovoce.runtime.prefix import fill_layout

SHORTEST: Final = 0.3
"""Shortest stretch, as a share of the longest clip the voice takes: 30 of 100 codes, as the reference voice was made
with (its recipe's layout.py)."""


class Clips:
    """The clips that each utterance can have; draws one."""

    def __init__(self, spoken: Sequence[Spoken], spec: VoiceSpec) -> None:
        """Of the utterances `spoken` of the voice `spec`."""
        self.spoken, self.spec = spoken, spec
        self.codes = "{prompt_codes}" in spec.prompt.layout
        self.words = "{prompt_text}" in spec.prompt.layout
        self.fixed = len(fill_layout(spec.prompt, (), (), ()))
        self.shortest = max(1, int(SHORTEST * spec.prompt.max_prompt_codes))
        slots = np.array([self._fewest(s) for s in spoken], np.int64)
        order = np.argsort(slots, kind="stable")
        names = np.array([s.speaker for s in spoken])
        self._members = {name: order[names[order] == name] for name in set(names.tolist())}
        self._slots = {name: slots[members] for name, members in self._members.items()}
        self._place = np.zeros(len(spoken), np.int64)
        for members in self._members.values():
            self._place[members] = np.arange(len(members))

    def room(self, index: int) -> int:
        """Prefix slots that utterance `index` leaves to its clip; below 0 where its text alone is too long."""
        return self.spec.prefix - self.fixed - len(self.spoken[index].text)

    def longest(self, index: int) -> int:
        """Slots that a clip of utterance `index` takes at most."""
        if self.words:
            return int(self._slots[self.spoken[index].speaker][: self._within(index)].max(initial=0))
        return min(self.room(index), self.spec.prompt.max_prompt_codes) if self.codes else 0

    def problem(self, index: int) -> str | None:
        """Why utterance `index` can have no clip; None where it can."""
        if self.room(index) < 0:
            return f"{len(self.spoken[index].text)} text tokens, which fill the prefix of {self.spec.prefix} slots"
        if (self.codes or self.words) and not self._count(index):
            return f"speaker {self.spoken[index].speaker!r} has no other utterance that fits beside it as its prompt"
        return None

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Codes and text ids of a clip for utterance `index`, both empty where the layout has no clip."""
        empty = np.zeros(0, np.int32)
        if not (self.codes or self.words):
            return empty, empty
        drawn = int(rng.integers(self._count(index)))
        members, place = self._members[self.spoken[index].speaker], self._place[index]
        other = self.spoken[members[drawn + (drawn >= place)]]
        if self.words:
            return other.codes if self.codes else empty, other.text
        longest = min(len(other.codes), self.longest(index))
        count = int(rng.integers(min(self.shortest, longest), longest + 1))
        start = int(rng.integers(len(other.codes) - count + 1))
        return other.codes[start : start + count], empty

    def _fewest(self, spoken: Spoken) -> int:
        """Slots that `spoken` takes at least as a clip; more than any prefix has where it is too long for one."""
        if not self.words:
            return min(len(spoken.codes), self.shortest)
        too_long = self.codes and len(spoken.codes) > self.spec.prompt.max_prompt_codes
        return len(spoken.text) + (len(spoken.codes) if self.codes else 0) + (self.spec.prefix + 1) * too_long

    def _count(self, index: int) -> int:
        """Utterances that can be `index`'s clip: those of its speaker with the fewest slots, itself not counted."""
        count = self._within(index)
        return count - bool(self._place[index] < count)

    def _within(self, index: int) -> int:
        """Utterances of the speaker of `index` that fit into its room as clips, itself counted where it would."""
        return int(np.searchsorted(self._slots[self.spoken[index].speaker], self.room(index), side="right"))
