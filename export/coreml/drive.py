"""A driver of `decoder.mlpackage`, for verification only: the cache contract as its manifest words it.

The runtime's loop is not used here on purpose: a mistake in reading the contract must not be made twice. Slots that
were never written hold large garbage.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sottovoce.export.coreml.decoder import EMBEDDING, PACKAGE, POSITIONS
from sottovoce.export.coreml.interpreted import Interpreted
from sottovoce.export.coreml.layout import DECODE, PREFILL, Layout

HIDDEN = np.float16(-30000)
"""Bias of a slot that may not be seen: half precision has nothing as low as −1e30, and infinities make NaN."""

GARBAGE = 100.0
"""Scale of what lies in slots that were never written; its sums must fit half precision."""


class Engine(Protocol):
    """What runs a package: the interpreter, or Core ML."""

    def run(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of one run; states, where there are any, are the engine's."""
        ...

    def fill(self, states: Mapping[str, np.ndarray]) -> None:
        """Set the states."""
        ...

    def states(self) -> dict[str, np.ndarray]:
        """The states."""
        ...


class Slots:
    """Caches of one function: garbage in every slot, none visible; `held` tells what lies where."""

    def __init__(self, engine: Engine, layout: Layout, function: str) -> None:
        """Those that `layout` says, [1, H, D, S] each: inputs and outputs, or states of `engine`."""
        random, states = np.random.default_rng(0), layout.states(function)
        shapes = states or layout.caches(function)
        self._engine, self._stateful, self.names = engine, bool(states), tuple(shapes)
        self._caches = {name: (GARBAGE * random.standard_normal(s)).astype(np.float16) for name, s in shapes.items()}
        if states:
            engine.fill(self._caches)
            self._caches = {}  # they are the engine's now
        self.count = next((shape[-1] for shape in shapes.values()), 0)
        self.held: dict[int, int] = {}

    def buffers(self) -> list[np.ndarray]:
        """The caches in order, wherever they are kept."""
        held = self._engine.states() if self._stateful else self._caches
        return [held[name] for name in self.names]

    def run(self, function: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of one run, after which what it wrote is the next one's past."""
        if self._stateful:
            return self._engine.run(function, feeds)
        outputs = self._engine.run(function, {**feeds, **self._caches})
        self._caches = {name: outputs["present" + name.removeprefix("past_key_values")] for name in self._caches}
        return outputs

    def masks(self, slots: list[int], size: int, behind: int | None = None) -> dict[str, np.ndarray]:
        """Bias and write of T = `size` columns, the first of which fill `slots` in turn.

        What a column sees are the slots held before this run and those of this run up to itself; of them the last
        `behind` numbers, its own included, where that is given.
        """
        write, bias = np.zeros((size, self.count), np.float16), np.full((size, self.count), HIDDEN)
        for row in range(size):
            last = min(row, len(slots) - 1)
            own = self.held[slots[last]]
            later = {self.held[slot] for slot in slots[last + 1 :]}
            if row < len(slots):
                write[row, slots[row]] = 1
            for slot, number in self.held.items():
                if number not in later and (behind is None or 0 <= own - number < behind):
                    bias[row, slot] = 0
        return {"attention_bias": bias[None, None], "cache_write": write[None, None]}


def rotary_feeds(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows [T, 2, D/2] as two inputs [1, 1, D/2, T]."""
    return {f"rotary_{kind}": rows[:, part].T[None, None].copy() for part, kind in enumerate(("cos", "sin"))}


def column(x: np.ndarray) -> np.ndarray:
    """Vectors [T, d] as [1, d, 1, T]."""
    return x.T[None, :, None].copy()


class CoreDriver:
    """One utterance after the other; the same methods as the ONNX driver's, so that the same cases serve both."""

    def __init__(self, folder: Path, layout: Layout, prefix: int, window: int, engine: Engine | None = None) -> None:
        """Drive the package in `folder` with `prefix` P and `window` W, P + W = S."""
        self.layout, self.prefix, self.window = layout, prefix, window
        self._engine = engine or Interpreted(folder / PACKAGE)
        self._embedding = np.load(folder / EMBEDDING, mmap_mode="r")
        self._positions = np.load(folder / POSITIONS, mmap_mode="r")
        self.restart()

    def restart(self) -> None:
        """Forget the utterance."""
        self._slots = Slots(self._engine, self.layout, DECODE)
        self._read = self._generated = 0

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Feed prefix tokens → logits [V'] of the last one."""
        return self._logits(self._feed(np.asarray(self._embedding[list(ids)]), range(len(ids))))

    def step(self, token: int) -> np.ndarray:
        """Feed one generated token → logits [V']."""
        return self._logits(self._say(np.asarray(self._embedding[[token]]), self._read + self._generated))

    def buffers(self) -> list[np.ndarray]:
        """All caches in order, [1, H, D, S] each, wherever they are kept."""
        return self._slots.buffers()

    def held(self) -> list[dict[int, int]]:
        """Of each of them: slot → number of what lies there, all of the prefix first."""
        return [dict(self._slots.held)] * len(self._slots.names)

    def _feed(self, x: np.ndarray, positions: Sequence[int]) -> dict[str, np.ndarray]:
        """Read what a prefix is made of, x [p, d] → outputs of the last one, which goes through decode, the others T at
        a time."""
        if len(x) > self.prefix:
            raise ValueError(f"{len(x)} prefix tokens in {self.prefix} slots")
        size = self.layout.prefill
        for start in range(0, len(x) - 1, size):
            end = min(start + size, len(x) - 1)
            self._run(PREFILL, x[start:end], list(positions[start:end]), list(range(start, end)), size)
        last = len(x) - 1
        self._read = len(x)
        return self._run(DECODE, x[last:], [positions[last]], [last], 1)

    def _say(self, x: np.ndarray, position: int) -> dict[str, np.ndarray]:
        """Read what was generated, x [1, d]: its slot, P + t mod W, is written and then seen."""
        slot = self.prefix + self._generated % self.window
        self._generated += 1
        return self._run(DECODE, x, [position], [slot], 1)

    def _logits(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [V'] float32 in one piece."""
        pieces = sorted((name for name in outputs if name.startswith("logits")), key=lambda name: (len(name), name))
        return np.concatenate([outputs[name].reshape(-1) for name in pieces]).astype(np.float32)

    def _more(self, function: str) -> dict[str, np.ndarray]:
        """Inputs of a function beside those of any voice."""
        return {}

    def _run(
        self, function: str, x: np.ndarray, positions: list[int], slots: list[int], size: int
    ) -> dict[str, np.ndarray]:
        """One run over x [n, d] at `positions`, padded to `size`; its caches become the next one's."""
        for number, slot in enumerate(slots):
            self._slots.held[slot] = self._read + self._generated - 1 if function == DECODE else slots[0] + number
        rows = np.minimum(np.arange(size), len(x) - 1)
        x, table = x[rows], np.asarray(self._positions[np.array(positions)[rows]])
        if not self.layout.rotary:
            x = (x.astype(np.float32) + table).astype(np.float16)
        feeds = {"inputs_embeds": column(x), **self._slots.masks(slots, size), **self._more(function)}
        feeds |= rotary_feeds(table) if self.layout.rotary else {}
        return self._slots.run(function, feeds)
