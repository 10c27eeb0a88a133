"""A contender for the driver's tests: logits of ten ids, every step written to a file, and failures on demand."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.serve import main


class Fake:
    """Its `format` is how it fails: not, by raising at a length, or by dying there."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        print("a library that prints", flush=True)
        self.folder, self.format, self.count = folder, format, 0
        self._log(f"opened with {threads} threads for {room}")

    def _log(self, text: str) -> None:
        with (self.folder.parent / "log.txt").open("a") as file:
            print(self.folder.name, text, file=file)

    def _at(self, count: int) -> Any:
        if self.format == "raises" and count >= 300:
            raise MemoryError("no room | left")
        if self.format == "dies" and count >= 300:
            os.kill(os.getpid(), signal.SIGILL)
        self.count = count
        return np.roll(np.arange(10), count)

    def read(self, ids: list[int], ahead: int) -> Any:
        self._log(f"read {ids[self.count : self.count + 2]}…{len(ids)}, {ahead} ahead")
        return self._at(len(ids))

    def step(self, token: int) -> Any:
        self._log(f"step {token}")
        time.sleep(0.002)
        return self._at(self.count + 1)


if __name__ == "__main__":
    main(lambda checkpoint, folder, format: None, Fake)
