"""One contender in a process of its own, driven by JSON lines. Imports nothing that its environment may lack.

    python -m benchmarks.peers.NAME prepare CHECKPOINT FOLDER FORMAT

makes what the contender loads; then `serve` in its place reads a request from each line of stdin and answers each on
stdout (what libraries print goes to stderr):

    {"do": "open", "folder": F, "format": W, "threads": N, "room": R}   {"seconds": S, "size": K}
    {"do": "read", "length": L, "ahead": A}                             {}
    {"do": "logits"}                                                    {"logits": [...]}
    {"do": "step", "count": N}                                          {"seconds": [S, ...]}
    {"do": "peak"}                                                      {"bytes": B}

A request that fails is answered by {"error": "ValueError: ..."}.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

IDS = 1000
"""Token ids that are read in turn: what is said costs no time, only that something is."""


class Contender(Protocol):
    """A decoder that was opened; one with a `size` says so many tokens with each step."""

    def read(self, ids: list[int], ahead: int) -> Any:
        """Have read all of `ids`, whose beginning may have been read before, with room for `ahead` more; logits [V]."""

    def step(self, token: int) -> Any:
        """Feed one more token; logits [V] of the one after it."""


Open = Callable[[Path, str, int, int], Contender]
"""Bundle's folder, format, threads, tokens there must be room for."""


class Server:
    """Answers requests, one method each; what was read so far stands in `said`."""

    def __init__(self, opener: Open) -> None:
        """Nothing is open yet."""
        self.opener = opener
        self.contender: Any = None
        self.said: list[int] = []
        self.logits: Any = None

    def do_open(self, folder: str, format: str, threads: int, room: int) -> dict[str, Any]:
        """Seconds until the decoder could run, and how many tokens a step says."""
        self.contender = None
        start = time.perf_counter()
        self.contender = self.opener(Path(folder), format, threads, room)
        self.size = getattr(self.contender, "size", 1)
        return {"seconds": time.perf_counter() - start, "size": self.size}

    def do_read(self, length: int, ahead: int) -> dict[str, Any]:
        """Read on until the context holds so many tokens."""
        if length <= len(self.said):
            raise ValueError(f"{len(self.said)} tokens were read already: {length} is behind")
        self.said += [7 * number % IDS for number in range(len(self.said), length)]
        self.logits = self.contender.read(self.said, ahead)
        return {}

    def do_logits(self) -> dict[str, Any]:
        """What the last token read makes of the next; nothing where tokens are drawn in the graph."""
        return {"logits": [] if self.logits is None else np.asarray(self.logits, np.float64).ravel().tolist()}

    def do_step(self, count: int) -> dict[str, Any]:
        """Seconds of each of `count` steps, the choice of the likeliest token included."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            token = 0 if self.logits is None else int(np.argmax(self.logits))
            self.logits = self.contender.step(token)
            seconds.append(time.perf_counter() - start)
            self.said += [token] * self.size
        return {"seconds": seconds}

    def do_peak(self) -> dict[str, Any]:
        """The most memory this process ever held."""
        return {"bytes": peak()}

    def answer(self, line: str) -> dict[str, Any]:
        """One request."""
        request = json.loads(line)
        try:
            found: dict[str, Any] = getattr(self, f"do_{request.pop('do')}")(**request)
        except Exception as error:  # whatever a library raises is the contender's result
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        return found


def peak() -> int:
    """VmHWM, bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def claim_stdout() -> TextIO:
    """The real stdout, which then is stderr for everybody else, C libraries included."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main(prepare: Callable[[Path, Path, str], None], opener: Open) -> None:
    """What each contender's module runs."""
    parser = argparse.ArgumentParser(description="one contender of benchmarks.peers")
    does = parser.add_subparsers(dest="does", required=True)
    making = does.add_parser("prepare", help="make what is loaded")
    making.add_argument("checkpoint", type=Path)
    making.add_argument("folder", type=Path)
    making.add_argument("format")
    does.add_parser("serve", help="answer requests")
    args = parser.parse_args()
    if args.does == "prepare":
        prepare(args.checkpoint, args.folder, args.format)
        return
    answers, server = claim_stdout(), Server(opener)
    for line in sys.stdin:
        print(json.dumps(server.answer(line)), file=answers, flush=True)
