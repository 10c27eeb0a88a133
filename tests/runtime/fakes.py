"""A bundle without ONNX: numpy graphs behind the `Session` protocol, so that the loop is tested in milliseconds.

The fake decoder attends to nothing but its bias: the cache holds each token's id, and the logits say which ids the step
could see. So a wrong slot, bias, length or position shows as a wrong set of ids.
"""

import ctypes
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from sottovoce.runtime.bundle import Bundle, Voice
from sottovoce.runtime.contract import STEP_INPUTS, cache_tensors, token_ids
from sottovoce.runtime.manifest import (
    SCHEMA,
    CacheGroup,
    CacheSpec,
    CodecSpec,
    FileEntry,
    Flavour,
    HeadSpec,
    IoSpec,
    Manifest,
    PrefillSpec,
    PromptSpec,
    SamplingSpec,
    StateSpec,
    TensorSpec,
    TextSpec,
    WeightSpec,
)
from sottovoce.runtime.portable_contract import decode_io, prefill_io
from sottovoce.runtime.text.frontend import load_frontend

RATE, HOP, DELAY, FLUSH = 800, 80, 100, 2
CODES, STOP = 10, 10
LETTERS = "abcdefghijklmnopqrstuvwxyz ,.?'"
GARBAGE = 1e3

CODEC = CodecSpec(RATE, HOP, DELAY, FLUSH, 0, (StateSpec("state.0", (1, DELAY)),))
PROMPT = PromptSpec((60, "{text}", 61, "{prompt_codes}", 62), 0, CODES, (STOP,), 20, 12)
SAMPLING = SamplingSpec(temperature=0.0, min_ratio=0.0, max_ratio=1.0, max_extra=30)
TEXT = {"kind": "characters", "symbols": {letter: 20 + i for i, letter in enumerate(LETTERS)}}


def manifest(prefix: int = 40, window: int = 5, aliased: bool = True, max_position: int = 400) -> Manifest:
    """A manifest of one layer with one head of one number per slot; of the portable flavour where not `aliased`."""
    group = CacheGroup("decoder", 1, 1, 1, prefix, window, "token", "fp32")
    cache = CacheSpec((group,), "scratch", aliased, group.nbytes)
    head = HeadSpec(((0, CODES + 1),))
    logits = TensorSpec("logits", "tensor(float)", (1, 1, CODES + 1))
    inputs = (*STEP_INPUTS, *cache_tensors(cache, "past_key_values"))
    io = IoSpec(inputs, (logits, *cache_tensors(cache, "present")))
    if not aliased:
        io, whole = decode_io(cache, CODES + 1), PrefillSpec("prefill.onnx", prefill_io(cache, CODES + 1), 1, 1, 1, 0)
    weights = WeightSpec("fp32", "fp32", "fp32", None)
    text = TextSpec("characters", "text.json")
    flavour: Flavour = "ort" if aliased else "portable"
    return Manifest(
        SCHEMA, {}, "0" * 64, {}, flavour, "1.22", cache, io, weights, head, max_position, PROMPT, text, SAMPLING,
        CODEC, "passed", prefill=None if aliased else whole,
    )  # fmt: skip


def nodes(specs: Any) -> list[Any]:
    """`specs` as a session reports them."""
    return [SimpleNamespace(name=s.name, type=s.dtype, shape=list(s.shape)) for s in specs]


class FakeBinding:
    """Reads and writes the very memory that was bound."""

    def __init__(self) -> None:
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}

    @staticmethod
    def _view(dtype: Any, shape: tuple[int, ...], pointer: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype).reshape(shape)

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: tuple[int, ...], pointer: int) -> None:
        self.inputs[name] = self._view(dtype, shape, pointer)

    def bind_output(
        self, name: str, device: str, number: int, dtype: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        self.outputs[name] = self._view(dtype, shape, pointer)


class FakeDecoder:
    """Keeps token ids as keys; `choose(seen, position)` picks the token whose logit is highest."""

    def __init__(self, spec: Manifest, choose: Any = None) -> None:
        self.spec = spec
        self.choose = choose or (lambda seen, position: position % CODES)
        self.seen: list[list[int]] = []
        self.biases: list[np.ndarray] = []
        self.positions: list[int] = []
        self.pointers: set[tuple[str, int]] = set()

    def get_inputs(self) -> list[Any]:
        return nodes(self.spec.io.inputs)

    def get_outputs(self) -> list[Any]:
        return nodes(self.spec.io.outputs)

    def io_binding(self) -> FakeBinding:
        return FakeBinding()

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        feeds, outs = binding.inputs, binding.outputs
        slots = self._fused(feeds, outs) if self.spec.cache.aliased else self._portable(feeds, outs)
        ids, bias = feeds["input_ids"], feeds["attention_bias"][0, 0]
        last = int(feeds["seqlens_k"][0]) if ids.shape[1] > 1 and not self.spec.cache.aliased else -1
        self.biases.append(bias.copy())
        self.seen.append(slots[np.flatnonzero(bias[last] == 0)].astype(int).tolist())
        self.positions += feeds["position_ids"][0][: last + 1 or None].tolist()
        self.pointers |= {(name, array.ctypes.data) for name, array in feeds.items() if bias.shape[0] == 1}
        outs["logits"][:] = 0
        outs["logits"][0, 0, self.choose(self.seen[-1], self.positions[-1])] = 1

    def _fused(self, feeds: dict[str, np.ndarray], outs: dict[str, np.ndarray]) -> np.ndarray:
        """What lies in the slots, the ids of this run written where the lengths say."""
        ids, total = feeds["input_ids"], int(feeds["total_sequence_length"])
        assert int(feeds["seqlens_k"][0]) == total - 1
        assert feeds["attention_bias"].shape == (1, 1, ids.shape[1], total)
        for part in ("key", "value"):
            past, present = feeds[f"past_key_values.0.{part}"], outs[f"present.0.{part}"]
            assert past.ctypes.data == present.ctypes.data
            present[0, 0, total - ids.shape[1] : total, 0] = ids[0]
        return outs["present.0.key"][0, 0, :, 0]

    def _portable(self, feeds: dict[str, np.ndarray], outs: dict[str, np.ndarray]) -> np.ndarray:
        """The same of a prefix, or of one token whose slot goes out alone; every shape is the manifest's."""
        assert self.spec.prefill is not None
        io = self.spec.io if "past_key_values.0.key" in feeds else self.spec.prefill.io
        assert {name: array.shape for name, array in feeds.items()} == {s.name: s.shape for s in io.inputs}
        assert {name: array.shape for name, array in outs.items()} == {s.name: s.shape for s in io.outputs}
        ids = feeds["input_ids"][0]
        for part in ("key", "value"):
            outs[f"present.0.{part}"][:] = 0
            outs[f"present.0.{part}"][0, 0, : len(ids), 0] = ids
        present = outs["present.0.key"][0, 0, :, 0]
        return np.append(feeds["past_key_values.0.key"], present) if io is self.spec.io else present

    def run(self, names: Any, inputs: Any) -> Any:
        raise AssertionError("the decoder is driven through bindings only")


class FakeCodec:
    """Each code c is HOP samples of (c + 1) / 20, delayed by DELAY samples."""

    def get_inputs(self) -> list[Any]:
        return nodes(
            [TensorSpec("codes", "tensor(int64)", (1, "N")), TensorSpec("state.0", "tensor(float)", (1, DELAY))]
        )

    def get_outputs(self) -> list[Any]:
        state = TensorSpec("next_state.0", "tensor(float)", (1, DELAY))
        return nodes([TensorSpec("audio", "tensor(float)", (1, "S")), state])

    def io_binding(self) -> Any:
        raise AssertionError("the codec is run over arrays")

    def run_with_iobinding(self, binding: Any) -> None:
        raise AssertionError("the codec is run over arrays")

    def run(self, names: Any, inputs: Any) -> Any:
        line = np.concatenate([inputs["state.0"][0], sound(inputs["codes"][0])])
        return [line[None, :-DELAY], line[None, -DELAY:]]


class FakeEncoder:
    """Undoes FakeCodec."""

    def get_inputs(self) -> list[Any]:
        return nodes([TensorSpec("audio", "tensor(float)", (1, "S"))])

    def get_outputs(self) -> list[Any]:
        return nodes([TensorSpec("codes", "tensor(int64)", (1, "N"))])

    def run(self, names: Any, inputs: Any) -> Any:
        return [np.rint(inputs["audio"][:, HOP // 2 :: HOP] * 20 - 1).astype(np.int64)]


def sound(codes: Any) -> np.ndarray:
    """What FakeCodec makes of `codes` when nothing is lost."""
    return np.repeat((np.asarray(codes, np.float32) + 1) / 20, HOP)


def write_files(folder: Path, spec: Manifest) -> Manifest:
    """Write a bundle folder whose graphs are named but empty of ONNX; its manifest with hashes."""
    (folder / "prompts").mkdir(parents=True)
    prompt = {"codes": [1, 2, 3], "transcript": "", "licence": "CC0", "consent": "synthetic"}
    contents = {
        "decoder.onnx": "a graph",
        "codec_decoder.onnx": "another graph",
        "codec_encoder.onnx": "a third graph",
        "text.json": json.dumps(TEXT),
        "prompts/ada.json": json.dumps(prompt),
    }
    files = {}
    for name, content in contents.items():
        (folder / name).write_text(content)
        files[name] = FileEntry(hashlib.sha256(content.encode()).hexdigest(), len(content))
    spec = replace(spec, files=files)
    (folder / "manifest.json").write_text(spec.to_json())
    return spec


def fake_session(spec: Manifest, path: Path) -> Any:
    """The fake graph for a file of the bundle, in place of `open_session`."""
    return {"decoder.onnx": FakeDecoder(spec), "codec_decoder.onnx": FakeCodec(), "codec_encoder.onnx": FakeEncoder()}[
        path.name
    ]


def fake_bundle(folder: Path, spec: Manifest | None = None, choose: Any = None) -> Bundle:
    """An open bundle over fakes, without reading anything but its text.json."""
    spec = write_files(folder, spec or manifest())
    frontend = load_frontend(folder, TextSpec("characters", "text.json"))
    voice = Voice(PROMPT, spec.sampling or SAMPLING, CODEC, frontend, FakeCodec())
    ids = token_ids(spec.head)
    decoder = FakeDecoder(spec, choose)
    prefill = None if spec.cache.aliased else decoder
    return Bundle(folder, spec, 1, decoder, ids, voice, MappingProxyType({}), prefill=prefill)
