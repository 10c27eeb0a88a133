"""A bundle's graphs, watched: what opening each one takes, and how long each run of it.

Handed to `load_bundle` as the way to open a graph, so that the runtime is measured as it is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sottovoce.devices.memory import Mappings, read_mappings
from sottovoce.devices.readings import Opening
from sottovoce.runtime.session import Array, Node, Session, open_session


@dataclass
class Watched:
    """A graph that notes the seconds of each run; it is a `Session`."""

    session: Session
    seconds: list[float] = field(default_factory=list)

    def get_inputs(self) -> Sequence[Node]:
        """See `Session`."""
        return self.session.get_inputs()

    def get_outputs(self) -> Sequence[Node]:
        """See `Session`."""
        return self.session.get_outputs()

    def io_binding(self) -> Any:
        """See `Session`."""
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        """See `Session`."""
        start = time.perf_counter()
        self.session.run_with_iobinding(binding)
        self.seconds.append(time.perf_counter() - start)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        start = time.perf_counter()
        outputs = self.session.run(names, feeds)
        self.seconds.append(time.perf_counter() - start)
        return outputs


class Graphs:
    """The graphs of one bundle as they are opened."""

    def __init__(self, folder: Path) -> None:
        """Of the bundle in `folder`, none yet."""
        self.folder = folder
        self.opened: list[Opening] = []
        self.sessions: dict[str, Watched] = {}

    def open(self, path: Path, threads: int) -> Session:
        """`path` opened, noted and watched."""
        before = read_mappings(self.folder)
        start = time.perf_counter()
        session = Watched(self.session(path, threads))
        seconds = time.perf_counter() - start
        self.opened.append(Opening(path.stem, seconds, growth(before, read_mappings(self.folder))))
        self.sessions[path.stem] = session
        return session

    def session(self, path: Path, threads: int) -> Session:
        """`path` opened as the runtime does."""
        return open_session(path, threads)

    def forget_runs(self) -> None:
        """Start to note runs anew."""
        for session in self.sessions.values():
            session.seconds.clear()

    def runs(self, name: str) -> tuple[float, ...]:
        """Seconds of each run of the graph called `name` since they were forgotten."""
        return tuple(self.sessions[name].seconds) if name in self.sessions else ()


def growth(before: Mappings | None, after: Mappings | None) -> int | None:
    """Bytes of anonymous memory, swapped ones too, that came between two readings."""
    if before is None or after is None:
        return None
    return after.anonymous + after.swapped - before.anonymous - before.swapped
