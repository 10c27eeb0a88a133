"""A second driver of `decoder.onnx`, for parity checks only: the cache contract as the README words it.

The runtime's loop is not used here on purpose: a mistake in reading the contract must not be made twice.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from sottovoce.runtime.manifest import CacheGroup
from sottovoce.runtime.session import untiled

HIDDEN = np.float32(-1e30)
GARBAGE = 1e3
"""Scale of what lies in slots that were never written."""


KINDS = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
"""What keys and values are kept in."""


class Driven(Protocol):
    """What is asked of a driver."""

    def restart(self) -> None:
        """Forget the utterance."""

    def prefill(self, ids: list[int]) -> np.ndarray:
        """Feed prefix tokens → logits [V'] of the last one."""

    def step(self, token: int) -> np.ndarray:
        """Feed one generated token → logits [V']."""


def fill_with_noise(buffers: Iterable[np.ndarray], scale: float) -> None:
    """Garbage of that scale in every slot, as far as bytes can hold it."""
    random = np.random.default_rng(0)
    for buffer in buffers:
        noise = scale * random.standard_normal(buffer.shape, np.float32)
        buffer[:] = noise.clip(-128, 127) if buffer.dtype == np.int8 else noise


class Driver:
    """One utterance over one set of buffers; past and present are the same memory."""

    def __init__(
        self, graph: Path, group: CacheGroup, threads: int = 1, garbage: float = GARBAGE, model: bytes | None = None
    ) -> None:
        """Load `graph` (or `model`, a variant over the same weights) and fill slots with noise of scale `garbage`.

        At 0 they stay untouched, as far as a system gives memory when it is first written to.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
        with untiled():  # as the runtime here does
            self._session = onnxruntime.InferenceSession(model or graph, options, providers=["CPUExecutionProvider"])
        self._group, self._garbage = group, garbage
        shape = (1, group.kv_heads, group.slots, group.head_dim)
        self._buffers = [np.zeros(shape, KINDS[group.dtype]) for _ in range(2 * group.layers)]
        self._binding = self._session.io_binding()
        self._binding.bind_output("logits", "cpu")
        names = [f"{layer}.{part}" for layer in range(group.layers) for part in ("key", "value")]
        for name, buffer in zip(names, self._buffers, strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
            self._binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            self._binding.bind_ortvalue_output(f"present.{name}", value)
        self.restart()

    def restart(self) -> None:
        """Forget the utterance: garbage in every slot, none visible."""
        if self._garbage:
            fill_with_noise(self._buffers, self._garbage)
        self._visible = np.zeros(self._group.slots, bool)
        self._position = self._generated = 0

    def prefill(self, ids: list[int]) -> np.ndarray:
        """Feed prefix tokens, or a further chunk of them → logits [V'] of the last one."""
        start, end = self._position, self._position + len(ids)
        if end > self._group.prefix:
            raise ValueError(f"{end} prefix tokens in {self._group.prefix} slots")
        bias = np.zeros((1, 1, len(ids), end), np.float32)
        logits = self._run(ids, end - 1, bias)
        self._visible[start:end] = True
        return logits

    def step(self, token: int) -> np.ndarray:
        """Feed one generated token → logits [V']; the slot behind those in use is then copied into the ring."""
        ring = self._group.window - 1
        scratch = self._group.prefix + min(self._generated, ring)
        seen = [*self._visible[:scratch], True]
        logits = self._run([token], scratch, np.where(seen, np.float32(0), HIDDEN)[None, None, None])
        slot = self._group.prefix + self._generated % ring
        for buffer in self._buffers:
            buffer[:, :, slot] = buffer[:, :, scratch]
        self._visible[slot] = True
        self._generated += 1
        return logits

    def _run(self, ids: list[int], last_slot: int, bias: np.ndarray) -> np.ndarray:
        """One pass: ids at the next positions, written to the slots that end with `last_slot`."""
        positions = np.arange(self._position, self._position + len(ids))[None]
        feed = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": positions.astype(np.int64),
            "seqlens_k": np.array([last_slot], np.int32),
            "total_sequence_length": np.array(last_slot + 1, np.int32),
            "attention_bias": np.ascontiguousarray(bias, np.float32),
        }
        for name, array in feed.items():
            self._binding.bind_cpu_input(name, array)
        self._session.run_with_iobinding(self._binding)
        self._position += len(ids)
        # A view of the engine's memory, which the next pass reuses: hence the copy.
        logits: np.ndarray = self._binding.get_outputs()[0].numpy().reshape(-1).copy()
        return logits
