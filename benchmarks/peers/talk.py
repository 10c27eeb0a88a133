"""The driver's side: a contender's process, asked one thing at a time."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import PeerError, last_words

ROOT = Path(__file__).parents[2]


class Process:
    """A contender that answers JSON lines (see `serve`)."""

    def __init__(self, command: Sequence[str], log: Path, threads: int) -> None:
        """Start `command`; what it says beside its answers goes to `log`."""
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )  # fmt: skip

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """The answer to a request; PeerError where there is none."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **values}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{do}: {last_words(self.log, self.process.wait())}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{do}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
