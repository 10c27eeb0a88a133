"""Constants, and values that outlive a run."""

from torch import Tensor

from sottovoce.export.mil.registry import State, of, op


@op("const", dtype=of("val"))
def const(val: Tensor) -> Tensor:
    """A value that the program brings."""
    return val


@op("read_state")
def read_state(input: State) -> Tensor:
    """What the state holds."""
    return input.value


@op("write_state")
def write_state(input: State, data: Tensor) -> tuple[Tensor, ...]:
    """Let the state hold `data`; there is no result."""
    input.value = data
    return ()
