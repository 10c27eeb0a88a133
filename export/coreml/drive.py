"""A driver of `decoder.mlpackage`, for verification only: the cache contract as its manifest words it.

The runtime's loop is not used here on purpose: a mistake in reading the contract must not be made twice. Slots that
were never written hold large garbage.
"""

from collections.abc import Mapping
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
        """Forget the utterance: garbage in every slot, none visible."""
        random, shape = np.random.default_rng(0), self.layout.cache_shape
        names = self.layout.cache_names()
        self.caches = {name: (GARBAGE * random.standard_normal(shape)).astype(np.float16) for name in names}
        if self.layout.stateful:
            self._engine.fill(self.caches)
        self._visible = np.zeros(self.layout.slots, bool)
        self._position = self._generated = 0

    def prefill(self, ids: list[int]) -> np.ndarray:
        """Feed prefix tokens → logits [V'] of the last one, which goes through decode; the others T at a time."""
        if self._position + len(ids) > self.prefix:
            raise ValueError(f"{self._position + len(ids)} prefix tokens in {self.prefix} slots")
        size = self.layout.prefill
        for start in range(0, len(ids) - 1, size):
            self._chunk(ids[:-1][start : start + size])
        return self._decode(ids[-1], self._position)

    def step(self, token: int) -> np.ndarray:
        """Feed one generated token → logits [V']: its slot, P + t mod W, is written and then seen."""
        slot = self.prefix + self._generated % self.window
        self._generated += 1
        return self._decode(token, slot)

    def buffers(self) -> list[np.ndarray]:
        """All caches in order, [1, H, D, S] each, wherever they are kept."""
        held = self._engine.states() if self.layout.stateful else self.caches
        return [held[name] for name in self.layout.cache_names()]

    def _chunk(self, ids: list[int]) -> None:
        """Up to T prefix tokens into the next slots; rows beyond them are padding that is written nowhere."""
        size, count, first = self.layout.prefill, len(ids), self._position
        write = np.zeros((size, self.layout.slots), np.float16)
        write[np.arange(count), first + np.arange(count)] = 1
        bias = np.where(self._visible, np.float16(0), HIDDEN)[None].repeat(size, 0)
        for row in range(size):
            bias[row, first : first + min(row, count - 1) + 1] = 0
        padded = [*ids, *[ids[-1]] * (size - count)]
        self._run(PREFILL, padded, np.minimum(first + np.arange(size), first + count - 1), bias, write)
        self._visible[first : first + count] = True
        self._position += count

    def _decode(self, token: int, slot: int) -> np.ndarray:
        """One token into `slot`; logits [V'] float32."""
        self._visible[slot] = True
        write = np.zeros((1, self.layout.slots), np.float16)
        write[0, slot] = 1
        bias = np.where(self._visible, np.float16(0), HIDDEN)[None]
        outputs = self._run(DECODE, [token], np.array([self._position]), bias, write)
        self._position += 1
        pieces = [outputs[spec.name] for spec in self.layout.io(DECODE).outputs if spec.name.startswith("logits")]
        return np.concatenate([piece.reshape(-1) for piece in pieces]).astype(np.float32)

    def _run(
        self, function: str, ids: list[int], positions: np.ndarray, bias: np.ndarray, write: np.ndarray
    ) -> dict[str, np.ndarray]:
        """One run; its caches become the next one's."""
        x = np.asarray(self._embedding[ids])
        rows = np.asarray(self._positions[positions])
        feeds: dict[str, np.ndarray] = {}
        if self.layout.rotary:  # [T, 2, D/2] → two of [1, 1, D/2, T]
            feeds["rotary_cos"], feeds["rotary_sin"] = (rows[:, part].T[None, None].copy() for part in (0, 1))
        else:
            x = (x.astype(np.float32) + rows).astype(np.float16)
        feeds |= {
            "inputs_embeds": x.T[None, :, None].copy(),
            "attention_bias": bias[None, None],
            "cache_write": write[None, None],
        }
        outputs = self._engine.run(function, feeds if self.layout.stateful else feeds | self.caches)
        if not self.layout.stateful:
            present = self.layout.cache_names("present")
            self.caches = {name: outputs[made] for name, made in zip(self.caches, present, strict=True)}
        return outputs
