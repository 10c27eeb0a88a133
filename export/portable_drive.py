"""A second driver of `prefill.onnx` and `decode.onnx`, for parity checks only: the contract as its docstring words it.

As in `drive.py`, nothing of the runtime's loop is used; slots that no token was written to hold garbage.
"""

from pathlib import Path

import numpy as np
import onnxruntime

from sottovoce.export.decoder import DecoderParts
from sottovoce.export.drive import GARBAGE, HIDDEN, KINDS, Driven, Driver, fill_with_noise
from sottovoce.export.variants import float_graph
from sottovoce.runtime.manifest import CacheGroup


class PortableDriver:
    """One utterance; buffers of P + W − 1 slots, and what the last step said of its own token."""

    def __init__(
        self,
        decode: Path,
        prefill: Path,
        group: CacheGroup,
        threads: int = 1,
        garbage: float = GARBAGE,
        exact: bool = False,
    ) -> None:
        """Open both graphs; `exact`: in float32 where the engine would compute in integers."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._prefill, self._decode = (
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in (prefill, decode)
        )
        self._names = [f"{layer}.{part}" for layer in range(group.layers) for part in ("key", "value")]
        self._group, self._garbage = group, garbage
        shape = (1, group.kv_heads, group.slots - 1, group.head_dim)
        self._buffers = [np.zeros(shape, KINDS[group.dtype]) for _ in self._names]
        self.restart()

    def restart(self) -> None:
        """Forget the utterance."""
        self._visible = np.zeros(self._group.slots, bool)
        self._visible[-1] = True
        self._position = self._generated = 0

    def prefill(self, ids: list[int]) -> np.ndarray:
        """Feed the whole prefix → logits [V'] of its last token."""
        count, width = len(ids), self._group.prefix
        padded = np.full((1, width), ids[-1], np.int64)
        padded[0, :count] = ids
        feed = {
            "input_ids": padded,
            "position_ids": np.arange(width)[None],
            "seqlens_k": np.array([count - 1], np.int32),
            "attention_bias": np.triu(np.full((1, 1, width, width), HIDDEN, np.float32), 1),
        }
        logits, *present = self._prefill.run(["logits", *(f"present.{name}" for name in self._names)], feed)
        fill_with_noise(self._buffers, self._garbage)
        for buffer, written in zip(self._buffers, present, strict=True):
            buffer[:, :, :count] = written[:, :, :count]
        self._visible[:count] = True
        self._position = count
        return logits.reshape(-1)

    def step(self, token: int) -> np.ndarray:
        """Feed one generated token → logits [V']; its keys and values are then put into the ring."""
        bias = np.where(self._visible, np.float32(0), HIDDEN)[None, None, None]
        ids, position = np.array([[token]]), np.array([[self._position]])
        feed = {"input_ids": ids, "position_ids": position, "attention_bias": bias}
        feed |= {f"past_key_values.{name}": buffer for name, buffer in zip(self._names, self._buffers, strict=True)}
        logits, *present = self._decode.run(["logits", *(f"present.{name}" for name in self._names)], feed)
        slot = self._group.prefix + self._generated % (self._group.window - 1)
        for buffer, written in zip(self._buffers, present, strict=True):
            buffer[:, :, slot] = written[:, :, 0]
        self._visible[slot] = True
        self._position += 1
        self._generated += 1
        return logits.reshape(-1)


def open_driver(folder: Path, parts: DecoderParts, threads: int = 1, exact: bool = False) -> Driven:
    """What drives the graphs that `parts` describe; `exact`: in float32 where they compute in integers."""
    group, decoder = parts.cache.groups[0], folder / parts.decoder
    if parts.prefill is not None:
        return PortableDriver(decoder, folder / parts.prefill.file, group, threads, exact=exact)
    model = float_graph(decoder).SerializeToString() if exact else None
    return Driver(decoder, group, threads, model=model)
