"""This project's graph without its window: every token is attended to, as far as the cache has grown."""

from pathlib import Path
from typing import Any

from benchmarks.peers.ours import write_bundle
from benchmarks.peers.serve import main
from sottovoce.export.drive import Driver
from sottovoce.runtime.manifest import read_manifest

CHUNK = 256
"""Tokens read at once."""

SLOTS = 6400
"""Tokens there is room for; the window of two slots is never used."""


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """A bundle that holds every position."""
    write_bundle(checkpoint, folder, format, SLOTS, 2)


class Growing:
    """Reads and writes the slots in their order, over those that are filled and no others."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Buffers that are touched as far as the cache has grown, shared by past and present."""
        manifest = read_manifest(folder)
        (group,) = manifest.cache.groups
        self.driver = Driver(folder / manifest.decoder, group, threads, garbage=0)
        self.count = 0

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`."""
        for start in range(self.count, len(ids), CHUNK):
            logits = self.driver.prefill(ids[start : start + CHUNK])
        self.count = len(ids)
        return logits

    def step(self, token: int) -> Any:
        """See `Contender`."""
        self.count += 1
        return self.driver.prefill([token])


if __name__ == "__main__":
    main(prepare, Growing)
