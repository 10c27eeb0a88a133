"""Core ML behind the same seam as ONNX Runtime: packages are predicted through, caches are written in place.

What predicts is an `Engine`: Apple's, on macOS, or anything that runs a package. Slots of a cache [1, H, D, P + W]:
0..P-1 conditioning, P..P+W-1 a ring of the last W generated tokens; a token's slot is written, then seen.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from sottovoce.errors import ContractError, OptionError, TextError
from sottovoce.runtime.manifest import CodecSpec, CoremlSpec, IoSpec, Manifest
from sottovoce.runtime.paths import inside
from sottovoce.runtime.session import Array, Floats, NoGraph

HIDDEN: Final = np.float16(-30000)
"""Attention bias of a slot that may not be seen, in half precision's range."""

Feeds = Mapping[str, Array]


class Engine(Protocol):
    """An open package; immutable but for the states that a stream asks it for."""

    def make_state(self) -> Any:
        """States of one stream, all zeros; None where the package has none."""
        ...

    def predict(self, function: str, feeds: Feeds, state: Any) -> Mapping[str, Array]:
        """Outputs of one function by name."""
        ...


OpenEngine = Callable[[Path, Sequence[str], bool], Engine]
"""Opens the package in a folder for the functions named; the last argument says whether it keeps states."""


class CoremlDecoder:
    """What is shared by all streams of a bundle: the package and the host's tables."""

    def __init__(self, folder: Path, manifest: Manifest, open_engine: OpenEngine) -> None:
        """Open the package and map the tables; raises ContractError where they contradict the manifest."""
        spec = manifest.coreml
        assert spec is not None
        self.spec, self.io = spec, {"decode": manifest.io, "prefill": spec.prefill}
        self.engine = open_engine(inside(folder, manifest.decoder), tuple(self.io), spec.stateful)
        self.embedding = _table(folder, spec.embedding)
        self.positions = _table(folder, spec.positions)
        width = _shape(manifest.io, "inputs_embeds")[1]
        if self.embedding.shape[1] != width or len(self.positions) < manifest.max_position:
            raise ContractError(
                f"{folder}: {spec.embedding} and {spec.positions} have other sizes than the manifest says"
            )


class InplaceCache:
    """Caches of one stream, allocated once; see the module."""

    def __init__(self, manifest: Manifest) -> None:
        """Zeros for the (only) group: two sets, which past and present swap, or none where Core ML keeps them."""
        (group,) = manifest.cache.groups
        spec = manifest.coreml
        assert spec is not None
        self.prefix, self.window = group.prefix, group.window
        names = [f"{i}_{part}" for i in range(group.layers) for part in ("key", "value")]
        shape = (1, group.kv_heads, group.head_dim, group.slots)
        self.past: dict[str, Array] = {}
        if not spec.stateful:
            self.past = {f"past_key_values_{name}": np.zeros(shape, np.float16) for name in names}
        self.nbytes = manifest.cache.bytes
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


class CoremlStream:
    """One utterance at a time on an open bundle, as `decode.Stream`; not shared between threads."""

    def __init__(self, decoder: CoremlDecoder, manifest: Manifest) -> None:
        """Allocate the buffers."""
        self.cache = InplaceCache(manifest)
        self.max_position = manifest.max_position
        self._decoder, self._state = decoder, decoder.engine.make_state()
        self._logits = [spec.name for spec in manifest.io.outputs if spec.name.startswith("logits")]

    @property
    def position(self) -> int:
        """Position of the token the next step takes."""
        return self.cache.filled + self.cache.generated

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Forget the last utterance and read the prefix `ids`; logits [V'] of the first token.

        All but the last one go through `prefill`, some at a time; that one through `decode`. Raises TextError for a
        prefix that is empty or longer than the conditioning slots.
        """
        if not 0 < len(ids) <= min(self.cache.prefix, self.max_position):
            raise TextError(f"a prefix of {len(ids)} tokens: 1 to {self.cache.prefix} fit; shorten text or prompt")
        self.cache.init_state()
        self._state = self._decoder.engine.make_state()
        size = self._decoder.spec.prefill_tokens
        for start in range(0, len(ids) - 1, size):
            self._prefill_chunk(ids[start : min(start + size, len(ids) - 1)])
        self.cache.use(self.cache.filled)
        logits = self._decode(ids[-1])
        self.cache.filled += 1
        return logits

    def step(self, token: int) -> Floats:
        """Feed generated `token`; logits [V'] of the one after it. Raises TextError past the last position."""
        if self.position >= self.max_position:
            last = self.max_position - 1
            raise TextError(f"position {self.position} is past the graph's last one, {last}: shorten the text")
        self.cache.use(self.cache.prefix + self.cache.generated % self.cache.window)
        logits = self._decode(token)
        self.cache.generated += 1
        return logits

    def _decode(self, token: int) -> Floats:
        """Run one token at the next position over the slots chosen before."""
        outputs = self._run("decode", [token], [self.position], self.cache.bias, self.cache.write)
        return np.concatenate([outputs[name].reshape(-1) for name in self._logits]).astype(np.float32)

    def _prefill_chunk(self, ids: Sequence[int]) -> None:
        """Run `ids` into the next slots, padded to what the function takes; padding is written nowhere."""
        size, start, count = self._decoder.spec.prefill_tokens, self.cache.filled, len(ids)
        slots = self.cache.bias.shape[-1]
        rows, columns = np.arange(size)[:, None], np.arange(slots)[None]
        write = ((columns == start + rows) & (rows < count)).astype(np.float16)[None, None]
        bias = np.where(columns <= start + np.minimum(rows, count - 1), np.float16(0), HIDDEN)[None, None]
        padded = [*ids, *[ids[-1]] * (size - count)]
        positions = [start + min(row, count - 1) for row in range(size)]
        self._run("prefill", padded, positions, bias, write)
        self.cache.bias[..., start : start + count] = 0
        self.cache.filled += count

    def _run(
        self, function: str, ids: Sequence[int], positions: Sequence[int], bias: Array, write: Array
    ) -> Mapping[str, Array]:
        """One run of `function`; what it wrote is kept."""
        decoder = self._decoder
        x, rows = decoder.embedding[list(ids)], decoder.positions[list(positions)]
        feeds: dict[str, Array] = {"attention_bias": bias, "cache_write": write, **self.cache.past}
        if decoder.spec.rotary:  # [T, 2, D/2] → two of [1, 1, D/2, T]
            feeds["rotary_cos"], feeds["rotary_sin"] = (rows[:, part].T[None, None] for part in (0, 1))
        else:
            x = (x.astype(np.float32) + rows).astype(np.float16)
        feeds["inputs_embeds"] = x.T[None, :, None]
        outputs = decoder.engine.predict(function, feeds, self._state)
        self.cache.keep(outputs)
        return outputs


class CoremlCodec(NoGraph):
    """`codec.mlpackage` as a session: any number of codes, in as many runs as its functions make of them."""

    def __init__(self, folder: Path, codec: CodecSpec, spec: CoremlSpec, open_engine: OpenEngine) -> None:
        """Open the package and map the codes' values; raises ContractError where the manifest lacks them."""
        if spec.codec_values is None or 1 not in spec.codec_codes:
            raise ContractError("manifest: coreml.codec_values and a codec function of one code are needed to speak")
        self._sizes = sorted(spec.codec_codes, reverse=True)
        self._engine = open_engine(inside(folder, codec.decoder), [f"codes_{size}" for size in self._sizes], False)
        self._values = _table(folder, spec.codec_values)
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


def _table(folder: Path, name: str) -> Array:
    """The host's table `name`, mapped; ContractError where it is none."""
    try:
        table: Array = np.load(inside(folder, name), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ContractError(f"{folder / name} cannot be read: {error}") from None
    if table.dtype != np.float16 or table.ndim < 2:
        raise ContractError(f"{folder / name} holds {table.dtype}{list(table.shape)}, rows of float16 are needed")
    return table


def _shape(io: IoSpec, name: str) -> tuple[int | str, ...]:
    """Shape of an input; ContractError where there is none."""
    for spec in io.inputs:
        if spec.name == name:
            return spec.shape
    raise ContractError(f"manifest: io has no input {name}")
