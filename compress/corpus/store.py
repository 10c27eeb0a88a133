"""Whole numbers on disk, filed under what they were made of: work that was done once is found again.

Files are `KK/KEY.npy`, written whole or not at all, so that any number of processes share a folder. One that is damaged
counts as absent and is made again.
"""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sottovoce.models.checkpoint import write_atomic
from sottovoce.runtime.bundle import sha256

Ids = NDArray[np.int32]


class Store:
    """A folder of arrays [N] int32 by key."""

    def __init__(self, folder: Path) -> None:
        """Keep them under `folder`, which is made when the first is."""
        self.folder = folder

    def get(self, key: str) -> Ids | None:
        """The array kept under `key`, None where there is none."""
        try:
            values: NDArray[Any] = np.load(self._path(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values if values.dtype == np.int32 and values.ndim == 1 else None

    def put(self, key: str, values: Ids) -> None:
        """Keep `values` under `key`; raises OutputError where the disk refuses."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        write_atomic(self._path(key), lambda path: path.write_bytes(buffer.getvalue()))

    def _path(self, key: str) -> Path:
        """Where `key` is filed; folders of all keys together would grow slow."""
        return self.folder / key[:2] / f"{key}.npy"


def key_of(*parts: str) -> str:
    """One key for the texts `parts`, in their order (SHA-256, hex)."""
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def key_of_files(paths: Iterable[Path]) -> str:
    """One key for what `paths` hold, in their order."""
    return key_of(*(sha256(path) for path in paths))
