"""Head slicing: logits only of what can be sampled in speech mode, the codes and the stop ids."""

from collections.abc import Iterable
from itertools import pairwise

from sottovoce.errors import OptionError
from sottovoce.runtime.manifest import PromptSpec

Ranges = tuple[tuple[int, int], ...]


def speech_ranges(prompt: PromptSpec) -> Ranges:
    """The codes and stop ids of a voice as half-open ranges in order of id."""
    codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
    return ranges_of([*codes, *prompt.stop])


def ranges_of(ids: Iterable[int]) -> Ranges:
    """Half-open ranges that cover exactly `ids`, in order, as few as possible."""
    ranges: list[tuple[int, int]] = []
    for token in sorted(set(ids)):
        if ranges and ranges[-1][1] == token:
            ranges[-1] = (ranges[-1][0], token + 1)
        else:
            ranges.append((token, token + 1))
    return tuple(ranges)


def ids_of(ranges: Ranges) -> list[int]:
    """Token id of each logit."""
    return [token for start, end in ranges for token in range(start, end)]


def check_ranges(ranges: Ranges | None, vocab_size: int) -> Ranges:
    """The ranges asked for, all ids where None; OptionError unless they ascend, apart, inside the vocabulary."""
    if ranges is None:
        return ((0, vocab_size),)
    bounds = [bound for pair in ranges for bound in pair]
    touching = any(first[1] >= second[0] for first, second in pairwise(ranges))
    if not ranges or touching or any(a >= b for a, b in ranges) or min(bounds) < 0 or max(bounds) > vocab_size:
        raise OptionError(f"head ids {list(ranges)} must be ascending, separate ranges within 0..{vocab_size}")
    return ranges
