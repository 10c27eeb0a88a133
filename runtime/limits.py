"""What a bundle has room for; every loop asks here, so that all say it alike."""

from sottovoce.errors import OptionError, TextError


def check_chunk(prefill_chunk: int) -> None:
    """Raise OptionError for a prefix that would be read in pieces of nothing."""
    if prefill_chunk < 1:
        raise OptionError(f"--prefill-chunk {prefill_chunk}: at least 1 token is needed")


def check_position(position: int, end: int) -> None:
    """Raise TextError for a `position` that the graph, which ends before `end`, was not exported for."""
    if position >= end:
        raise TextError(f"position {position} is past the graph's last one, {end - 1}: shorten the text")


def check_prefix(count: int, allowed: int) -> None:
    """Raise TextError unless a prefix of `count` slots fits the `allowed` slots."""
    if count < 1:
        raise TextError("the prefix is empty: there is nothing to say")
    if count > allowed:
        raise TextError(
            f"text and prompt need {count} prefix slots and this bundle holds {allowed}: "
            f"shorten them, or export with --prefix {count}"
        )
