"""The measurement: everybody opens, reads on to a point, and takes steps there in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import PeerError
from benchmarks.peers.talk import Process

CHECK = 64
"""Tokens after which all contenders' logits are compared."""

WARM = 2
"""Steps of a turn that are not counted: another process had the processor's caches."""

PAUSE = 0.05
"""Seconds between turns, in which the last one's threads stop to spin."""


@dataclass(frozen=True)
class Setting:
    """`points` in tokens of context, turns (`rounds`) and counted `steps` of each; processes opened to time `loads`."""

    points: tuple[int, ...] = (100, 384, 1000, 2000, 6000)
    rounds: int = 7
    steps: int = 12
    threads: int = 1
    loads: int = 3

    @property
    def ahead(self) -> int:
        """Tokens said at a point."""
        return self.rounds * (self.steps + WARM)

    @property
    def room(self) -> int:
        """Tokens said in all, in whole pages of 256."""
        return -(-(self.points[-1] + self.ahead + 1) // 256) * 256


@dataclass
class Row:
    """A contender's figures.

    Seconds of a load, median seconds of a token in each turn by point, peak bytes after each
    point; `size` bytes on disk, `tokens` said by a step.
    """

    size: int = 0
    tokens: int = 1
    loads: list[float] = field(default_factory=list)
    steps: dict[int, list[float]] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    agrees: float | None = None
    """Correlation of its logits with the first contender's."""
    error: str = ""


@dataclass(frozen=True)
class Ready:
    """What is needed to run a contender: the `command` that serves, its bundle and format, where it may log."""

    command: Sequence[str]
    folder: Path
    format: str
    log: Path


class Field:
    """The contenders that are still running; one that fails leaves its error in its row."""

    def __init__(self, ready: dict[str, Ready], rows: dict[str, Row], setting: Setting) -> None:
        """Nobody is running yet."""
        self.ready, self.rows, self.setting = ready, rows, setting
        self.processes: dict[str, Process] = {}

    def attempt(self, name: str, do: Callable[[Process], Any]) -> Any:
        """What `do` returns; None where the contender fails, which is its end."""
        try:
            return do(self.processes[name])
        except PeerError as error:
            self.rows[name].error = str(error)
            self.processes.pop(name).close()
            return None

    def open(self) -> None:
        """Everybody's process anew, and the seconds it takes to load."""
        self.close()
        for name, one in self.ready.items():
            if self.rows[name].error:
                continue
            self.processes[name] = Process(one.command, one.log, self.setting.threads)
            room = {"threads": self.setting.threads, "room": self.setting.room}
            request = {"folder": str(one.folder), "format": one.format, **room}
            if answer := self.attempt(name, lambda process, r=request: process.ask("open", **r)):  # type: ignore[misc]
                self.rows[name].loads.append(answer["seconds"])
                self.rows[name].tokens = answer["size"]

    def read(self, length: int) -> None:
        """One after the other: engines whose threads spin would slow each other down."""
        for name in list(self.processes):
            self.attempt(name, lambda p: p.ask("read", length=length, ahead=self.setting.ahead))

    def compare(self) -> None:
        """How everybody's logits agree with those of the first."""
        answers = {name: self.attempt(name, lambda p: p.ask("logits")) for name in list(self.processes)}
        logits = {name: answer["logits"] for name, answer in answers.items() if answer and answer["logits"]}
        for name, values in logits.items():
            self.rows[name].agrees = float(np.corrcoef(values, next(iter(logits.values())))[0, 1])

    def step(self, point: int) -> None:
        """A turn of each."""
        for name in list(self.processes):
            time.sleep(PAUSE)
            if answer := self.attempt(name, lambda p: p.ask("step", count=WARM + self.setting.steps)):
                row, seconds = self.rows[name], float(np.median(answer["seconds"][WARM:]))
                row.steps.setdefault(point, []).append(seconds / row.tokens)

    def weigh(self, point: int) -> None:
        """Everybody's peak so far."""
        for name in list(self.processes):
            if answer := self.attempt(name, lambda p: p.ask("peak")):
                self.rows[name].peaks[point] = answer["bytes"]

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()
        self.processes = {}


def measure(ready: dict[str, Ready], rows: dict[str, Row], setting: Setting, say: Callable[[str], None]) -> None:
    """Fill `rows` of all that are `ready`."""
    field = Field(ready, rows, setting)
    try:
        for _ in range(setting.loads):
            field.open()
        field.read(CHECK)
        field.compare()
        for point in setting.points:
            say(f"reading on to {point} tokens")
            field.read(point)
            for _ in range(setting.rounds):
                field.step(point)
            field.weigh(point)
    finally:
        field.close()
