"""Core ML behind the same seam as ONNX Runtime: packages are predicted through, caches are written in place.

What predicts is an `Engine`: Apple's, on macOS, or anything that runs a package. Slots of a cache [1, H, D, P + W]:
0..P-1 conditioning, P..P+W-1 a ring of the last W generated tokens; a token's slot is written, then seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from sottovoce.errors import ContractError, OptionError
from sottovoce.runtime.coreml_contract import check_coreml
from sottovoce.runtime.limits import check_position, check_prefix
from sottovoce.runtime.manifest import CacheGroup, CodecSpec, CoremlPatchSpec, CoremlSpec, IoSpec, Manifest
from sottovoce.runtime.paths import inside
from sottovoce.runtime.session import Array, Floats, NoGraph

HIDDEN: Final = np.float16(-30000)
"""Attention bias of a slot that may not be seen, in half precision's range."""

Feeds = Mapping[str, Array]


class Engine(Protocol):
    """An open package; immutable but for the states that a stream asks it for."""

    def make_state(self, function: str) -> Any:
        """States of one stream, all zeros, for `function` and those whose states have the same names."""
        ...

    def predict(self, function: str, feeds: Feeds, state: Any) -> Mapping[str, Array]:
        """Outputs of one function by name."""
        ...


OpenEngine = Callable[[Path, Sequence[str]], Engine]
"""Opens the package in a folder for the functions named."""


class CoremlDecoder:
    """What is shared by all streams of a bundle: the package and the host's tables."""

    def __init__(self, folder: Path, manifest: Manifest, open_engine: OpenEngine) -> None:
        """Open the package and map the tables; raises ContractError where they contradict the manifest."""
        check_coreml(manifest)
        spec = manifest.coreml
        assert spec is not None
        self.spec, self.io = spec, {"decode": manifest.io, "prefill": spec.prefill}
        if spec.patch is not None:
            self.io |= {"compress": spec.patch.compress, "extract": spec.patch.extract}
        self.engine = open_engine(inside(folder, manifest.decoder), tuple(self.io))
        self.embedding, width = read_table(folder, spec.embedding), tensor_shape(manifest.io, "inputs_embeds")[1]
        ids = [*(end for _, end in manifest.head.ids), *_marks(manifest)]
        if self.embedding.shape[1:] != (width,) or len(self.embedding) < max(ids):
            raise ContractError(f"{folder / spec.embedding} has other sizes than the manifest says")
        self.positions = read_table(folder, spec.positions)
        row = (2, manifest.cache.groups[0].head_dim // 2) if spec.rotary else (width,)
        if self.positions.shape[1:] != row or len(self.positions) < manifest.max_position:
            raise ContractError(f"{folder / spec.positions} has other sizes than the manifest says")
        self.patch = None if spec.patch is None else PatchTables.read(folder, spec.patch, manifest)


@dataclass(frozen=True)
class PatchTables:
    """The host's tables of a patch voice's nets: `start` [1, d], rows of positions [n, 2, D/2]."""

    start: Array
    compress: Array | None
    extract: Array

    @classmethod
    def read(cls, folder: Path, spec: CoremlPatchSpec, manifest: Manifest) -> "PatchTables":
        """Map them; raises ContractError where they contradict the manifest."""
        start, name = read_table(folder, spec.start), spec.compress_positions
        width, size = tensor_shape(spec.extract, "inputs_embeds")[1], manifest.patch.size if manifest.patch else 0
        if start.shape != (1, width):
            raise ContractError(f"{folder / spec.start} is {list(start.shape)}, [1, {width}] is needed")
        if (name is None) is not (manifest.patch is None or manifest.patch.window is None):
            raise ContractError("manifest: coreml.patch.compress_positions contradicts patch.window")
        extract = read_rows(folder, spec.extract_positions, spec.extract, size)
        compress = None if name is None else read_rows(folder, name, spec.compress, manifest.max_position)
        return cls(start, compress, extract)


class InplaceCache:
    """Caches of one stream, allocated once; see the module."""

    def __init__(self, group: CacheGroup, stateful: bool = False) -> None:
        """Zeros: one of two sets, which past and present swap, or none where Core ML keeps them."""
        self.prefix, self.window = group.prefix, group.window
        shape = (1, group.kv_heads, group.head_dim, group.slots)
        names = [] if stateful else [f"{i}_{part}" for i in range(group.layers) for part in ("key", "value")]
        self.past: dict[str, Array] = {f"past_key_values_{name}": np.zeros(shape, np.float16) for name in names}
        self.nbytes = group.nbytes * (2 - stateful)
        self.bias: Array = np.empty((1, 1, 1, group.slots), np.float16)
        self.write: Array = np.empty((1, 1, 1, group.slots), np.float16)
        self.init_state()

    def init_state(self) -> None:
        """Forget everything."""
        self.filled = self.generated = 0
        self.bias.fill(HIDDEN)

    def use(self, slot: int) -> None:
        """Let the next run write `slot`, and see it."""
        self.write.fill(0)
        self.write[..., slot] = 1
        self.bias[..., slot] = 0

    def keep(self, outputs: Mapping[str, Array]) -> None:
        """What a run gave is the next one's past."""
        self.past = {name: outputs["present" + name.removeprefix("past_key_values")] for name in self.past}


class CachedFunctions:
    """Functions over the caches of one stream, which come and go with each run, or which Core ML keeps."""

    def __init__(self, decoder: CoremlDecoder, group: CacheGroup, function: str) -> None:
        """Allocate the caches of `group` for `function` and those that share them."""
        self.cache = InplaceCache(group, decoder.spec.stateful)
        self._engine, self._function, self._stateful = decoder.engine, function, decoder.spec.stateful
        self.init_state()

    def init_state(self) -> None:
        """Forget everything."""
        self.cache.init_state()
        self._state = self._engine.make_state(self._function) if self._stateful else None

    def run(self, function: str, feeds: Feeds) -> Mapping[str, Array]:
        """Outputs of one run; what it wrote is kept."""
        outputs = self._engine.predict(function, {**feeds, **self.cache.past}, self._state)
        self.cache.keep(outputs)
        return outputs


class CoremlBackbone:
    """The functions `prefill` and `decode` over one stream's caches, whatever places they read: tokens, or patches."""

    def __init__(self, decoder: CoremlDecoder, group: CacheGroup) -> None:
        """Allocate the buffers."""
        self._decoder, self._functions = decoder, CachedFunctions(decoder, group, "decode")
        self.cache = self._functions.cache

    def read(self, places: Array, positions: Sequence[int], more: Feeds) -> Mapping[str, Array]:
        """Forget the last utterance and read a prefix, places [p, d]; outputs of the last one.

        All but that go through `prefill`, some at a time; it through `decode`, with `more` inputs.
        """
        self._functions.init_state()
        size, last = self._decoder.spec.prefill_tokens, len(places) - 1
        for start in range(0, last, size):
            end = min(start + size, last)
            self._chunk(places[start:end], positions[start:end])
        self.cache.use(last)
        outputs = self._run("decode", places[last:], positions[last:], self.cache.bias, self.cache.write, more)
        self.cache.filled += 1
        return outputs

    def say(self, place: Array, position: int, more: Feeds) -> Mapping[str, Array]:
        """Read one place [1, d] of what is said, at `position`; outputs of `decode`, with `more` inputs."""
        self.cache.use(self.cache.prefix + self.cache.generated % self.cache.window)
        outputs = self._run("decode", place, [position], self.cache.bias, self.cache.write, more)
        self.cache.generated += 1
        return outputs

    def _chunk(self, places: Array, positions: Sequence[int]) -> None:
        """Run places [n, d] into the next slots, padded to what the function takes; padding is written nowhere."""
        size, start, count = self._decoder.spec.prefill_tokens, self.cache.filled, len(places)
        rows, columns = np.arange(size)[:, None], np.arange(self.cache.bias.shape[-1])[None]
        write = ((columns == start + rows) & (rows < count)).astype(np.float16)[None, None]
        bias = np.where(columns <= start + np.minimum(rows, count - 1), np.float16(0), HIDDEN)[None, None]
        padded = np.minimum(np.arange(size), count - 1)
        self._run("prefill", places[padded], [positions[row] for row in padded], bias, write, {})
        self.cache.bias[..., start : start + count] = 0
        self.cache.filled += count

    def _run(
        self, function: str, x: Array, positions: Sequence[int], bias: Array, write: Array, more: Feeds
    ) -> Mapping[str, Array]:
        """One run of `function` over x [T, d]."""
        decoder = self._decoder
        rows = decoder.positions[list(positions)]
        feeds: dict[str, Array] = {"attention_bias": bias, "cache_write": write, **more}
        if decoder.spec.rotary:
            feeds |= rotary_feeds(rows)
        else:
            x = (x.astype(np.float32) + rows).astype(np.float16)
        feeds["inputs_embeds"] = as_columns(x)
        return self._functions.run(function, feeds)


class CoremlStream:
    """One utterance at a time on an open bundle, as `decode.Stream`; not shared between threads."""

    def __init__(self, decoder: CoremlDecoder, manifest: Manifest) -> None:
        """Allocate the buffers."""
        (group,) = manifest.cache.groups
        self._backbone, self._embedding = CoremlBackbone(decoder, group), decoder.embedding
        self.cache = self._backbone.cache
        self.max_position = manifest.max_position
        self._logits = logit_names(manifest.io)

    @property
    def position(self) -> int:
        """Position of the token the next step takes."""
        return self.cache.filled + self.cache.generated

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Forget the last utterance and read the prefix `ids`; logits [V'] of the first token.

        Raises TextError for a prefix that is empty or longer than the conditioning slots.
        """
        check_prefix(len(ids), min(self.cache.prefix, self.max_position))
        outputs = self._backbone.read(self._embedding[list(ids)], range(len(ids)), {})
        return joined(outputs, self._logits)

    def step(self, token: int) -> Floats:
        """Feed generated `token`; logits [V'] of the one after it. Raises TextError past the last position."""
        check_position(self.position, self.max_position)
        return joined(self._backbone.say(self._embedding[[token]], self.position, {}), self._logits)


def as_columns(x: Array) -> Array:
    """Vectors [T, d] as [1, d, 1, T]."""
    return x.T[None, :, None]


def rotary_feeds(rows: Array) -> dict[str, Array]:
    """Rows [T, 2, D/2] as two inputs [1, 1, D/2, T]."""
    return {f"rotary_{kind}": rows[:, part].T[None, None] for part, kind in enumerate(("cos", "sin"))}


def logit_names(io: IoSpec) -> list[str]:
    """The outputs that logits come in, in order."""
    return [spec.name for spec in io.outputs if spec.name.startswith("logits")]


def joined(outputs: Mapping[str, Array], names: Sequence[str]) -> Floats:
    """Logits [V'] float32 of the outputs `names`."""
    return np.concatenate([outputs[name].reshape(-1) for name in names]).astype(np.float32)


class CoremlCodec(NoGraph):
    """`codec.mlpackage` as a session: any number of codes, in as many runs as its functions make of them."""

    def __init__(self, folder: Path, codec: CodecSpec, spec: CoremlSpec, open_engine: OpenEngine) -> None:
        """Open the package and map the codes' values; raises ContractError where the manifest lacks them."""
        if spec.codec_values is None or 1 not in spec.codec_codes:
            raise ContractError("manifest: coreml.codec_values and a codec function of one code are needed to speak")
        self._sizes = sorted(spec.codec_codes, reverse=True)
        self._engine = open_engine(inside(folder, codec.decoder), [f"codes_{size}" for size in self._sizes])
        self._values = read_table(folder, spec.codec_values)
        self._states = [state.name for state in codec.states]

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """`codes` [1, N] and states → `audio` [1, N · hop] float32 and next states, in that order."""
        codes = feeds["codes"][0]
        states = {name: feeds[name].astype(np.float16) for name in self._states}
        pieces: list[Array] = []
        while len(codes):
            size = next(size for size in self._sizes if size <= len(codes))
            values = self._values[codes[:size]].T[None, :, None]
            outputs = self._engine.predict(f"codes_{size}", {"values": values, **states}, None)
            states = {name: outputs[f"next_{name}"] for name in self._states}
            pieces.append(outputs["audio"][0, :, 0].T.reshape(1, -1).astype(np.float32))
            codes = codes[size:]
        return [np.concatenate(pieces, 1), *states.values()]


def check_unit(unit: str, known: Sequence[str]) -> None:
    """Raise OptionError for compute units that Core ML does not have."""
    if unit not in known:
        raise OptionError(f"compute unit {unit!r} is not one of {', '.join(known)}")


def _marks(manifest: Manifest) -> list[int]:
    """The ends of what the prompt's layout names and its codes take of the embedding's rows."""
    prompt = manifest.prompt
    if prompt is None:
        return []
    return [*(item + 1 for item in prompt.layout if isinstance(item, int)), prompt.code_offset + prompt.code_count]


def read_table(folder: Path, name: str) -> Array:
    """The host's table `name`, mapped; ContractError where it is none."""
    try:
        table: Array = np.load(inside(folder, name), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ContractError(f"{folder / name} cannot be read: {error}") from None
    if table.dtype != np.float16 or table.ndim < 2:
        raise ContractError(f"{folder / name} holds {table.dtype}{list(table.shape)}, rows of float16 are needed")
    return table


def read_rows(folder: Path, name: str, io: IoSpec, count: int) -> Array:
    """The table `name` of rotary rows [n, 2, D/2], n at least `count`, for a function of `io`; ContractError else."""
    table, half = read_table(folder, name), tensor_shape(io, "rotary_cos")[2]
    if table.shape[1:] != (2, half) or len(table) < count:
        raise ContractError(f"{folder / name} is {list(table.shape)}, [{count}, 2, {half}] or more is needed")
    return table


def tensor_shape(io: IoSpec, name: str) -> tuple[int | str, ...]:
    """Shape of an input; ContractError where there is none."""
    for spec in io.inputs:
        if spec.name == name:
            return spec.shape
    raise ContractError(f"manifest: io has no input {name}")
