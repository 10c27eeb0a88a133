"""`python -m tests.compress.killed WHERE COUNT ARGUMENTS…`: a command that a SIGKILL ends, as a test wants it.

WHERE is `update` (before the COUNT-th update) or `save` (half of the COUNT-th state is written).
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sottovoce.__main__ import main
from sottovoce.compress import loop, training_state


def die(*_: Any, **__: Any) -> None:
    """End this process; nothing can be tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def half(_: Any, path: Path, metadata: dict[str, str]) -> None:
    """Some bytes of a state, and the end."""
    path.write_bytes(b"half of a state")
    die(metadata)


def after(count: int, real: Any, then: Any) -> Any:
    """`real` for calls before number `count`, then `then`."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return (real if calls < count else then)(*args, **kwargs)

    return call


if __name__ == "__main__":
    where, count = sys.argv[1], int(sys.argv[2])
    if where == "update":
        setattr(loop._Trainer, "update", after(count, loop._Trainer.update, die))  # noqa: B010 (checkers mind)
    else:
        training_state.save_file = after(count, training_state.save_file, half)
    sys.exit(main(sys.argv[3:]))
