"""Where a benchmark keeps what takes long to make."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def kept_folder(asked: Path | None) -> Iterator[Path]:
    """The folder `asked` for, made where it is missing, or (None) one that goes away."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
        yield asked
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
