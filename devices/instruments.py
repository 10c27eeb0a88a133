"""A second process, which is not timed: the engine's own account of its memory, and the time of each kind of operator.

    python -m sottovoce.devices.instruments '{"bundle": "voice.bundle", "text": "Hello.", "runs": 5, "threads": 1}'

Both slow the engine down, so that figures of time and memory come from `worker.py` alone.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import onnxruntime

from sottovoce.devices.graphs import Graphs
from sottovoce.devices.readings import Instruments, Job, Operator
from sottovoce.devices.utterance import Speaker
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.session import Session, open_session

INFORMATION: Final = 1
WARNING: Final = 2

RESERVED: Final = re.compile(r"Reserving memory in BFCArena for \w+ size: (\d+)")
"""What the engine logs when it takes memory that stays: packed and copied weights, while a graph is opened."""

EXTENDED: Final = re.compile(r"Extended allocation by (\d+) bytes")
"""What it logs when its arena grows, which holds activations."""


def inspect(job: Job) -> Instruments:
    """Load and speak once with every instrument on."""
    with tempfile.TemporaryDirectory(prefix="sottovoce.") as folder:
        graphs = Traced(Path(job.bundle), Path(folder))
        with engine_log() as log:
            bundle = load_bundle(job.bundle, job.threads, verify_hashes=False, open_graph=graphs.open)
        weights = total(RESERVED, log)
        with engine_log() as log:
            Speaker(bundle, graphs, job.text, job.temperature).utter(0)
        arena = total(EXTENDED, log)
        del bundle
        graphs.sessions.clear()  # a trace is whole when its session is gone
        operators = [row for path in sorted(Path(folder).iterdir()) for row in read_trace(path)]
    return Instruments(weights, arena, sorted(operators, key=lambda row: -row.seconds))


class Traced(Graphs):
    """Graphs that write a trace each."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        """Of `bundle`, with traces in `folder`."""
        super().__init__(bundle)
        self.traces = folder

    def session(self, path: Path, threads: int) -> Session:
        """See `Graphs`."""

        def adjust(options: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.traces / path.stem)

        return open_session(path, threads, adjust)


@contextmanager
def engine_log() -> Iterator[list[str]]:
    """The lines that the engine logs during the block, once it is over; they go to descriptor 2."""
    lines: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        onnxruntime.set_default_logger_severity(INFORMATION)
        try:
            yield lines
        finally:
            onnxruntime.set_default_logger_severity(WARNING)
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        lines += file.read().decode(errors="replace").splitlines()


def total(pattern: re.Pattern[str], log: list[str]) -> int | None:
    """Sum of the bytes that `pattern` finds in the lines of `log`; None where the engine does not log its arena."""
    if not any("BFCArena" in line or "bfc_arena" in line for line in log):
        return None
    return sum(int(match[1]) for line in log if (match := pattern.search(line)))


def read_trace(path: Path) -> list[Operator]:
    """Calls and seconds of each kind of operator in the engine's trace of one graph."""
    found: dict[str, tuple[int, float]] = {}
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = event["args"].get("op_name", "?")
            calls, seconds = found.get(kind, (0, 0.0))
            found[kind] = calls + 1, seconds + event["dur"] * 1e-6
    graph = re.sub(r"_\d{4}-.*", "", path.stem)
    return [Operator(graph, kind, calls, seconds) for kind, (calls, seconds) in found.items()]


def main() -> int:
    """Inspect the job in argv[1]; print the result as one line of JSON."""
    print(json.dumps(asdict(inspect(Job(**json.loads(sys.argv[1]))))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
