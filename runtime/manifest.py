"""The bundle contract: `manifest.json` as frozen dataclasses, read strictly.

Written by `sottovoce.export`, read by `sottovoce.runtime` and `sottovoce.devices`. Unknown keys, missing keys and newer
schemas are errors. Slots of a buffer `[1, H, P + W, D]`: `0..P-1` conditioning, `P..P+W-2` ring, `P+W-1` scratch. A
graph knows no more of them than lengths and bias say: a loop may begin the ring behind the conditioning slots in use,
and read as far as it is filled, as `cache.py` does.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sottovoce.errors import BundleError
from sottovoce.runtime.parse import parse
from sottovoce.runtime.strict_json import read_json

SCHEMA = 4
"""Version of the bundle contract; raised whenever the meaning of a field changes."""

MANIFEST = "manifest.json"
"""Name of the manifest inside a bundle folder."""

Flavour = Literal["ort", "portable", "coreml", "coreai"]
WeightFormat = Literal["fp32", "fp16", "int8", "int4", "palette4"]
CodecFormat = Literal["fp32", "fp16", "int8"]
CacheFormat = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: its SHA-256 (hex) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class CacheGroup:
    """Buffers of equal shape: `layers` pairs of `[1, kv_heads, prefix + window, head_dim]`.

    One `held` by the graph is no input or output of it: it is made afresh in every run, and `CacheSpec.bytes` leaves it
    out.
    """

    name: str
    layers: int
    kv_heads: int
    head_dim: int
    prefix: int
    window: int
    unit: Literal["token", "patch"]
    dtype: CacheFormat
    held: Literal["runtime", "graph"] = "runtime"

    @property
    def slots(self) -> int:
        """Slots per buffer, P + W."""
        return self.prefix + self.window

    @property
    def nbytes(self) -> int:
        """Bytes of one set of this group's key and value buffers."""
        width = {"fp32": 4, "fp16": 2, "int8": 1}[self.dtype]
        return 2 * self.layers * self.kv_heads * self.slots * self.head_dim * width


@dataclass(frozen=True)
class CacheSpec:
    """The cache contract; `bytes` counts every buffer: two sets where past and present are not `aliased` but swapped.

    In flavour `portable` neither is the case: past buffers lack the scratch slot, and the present ones are that slot.
    `groups` of a plain voice: one in tokens. Of a patch voice: `backbone`, the same in patches (in the prefix a slot
    for each token of text, and for each patch of the clip); `compressor`, in tokens, where patches are more than means;
    `extractor`, in tokens, held by the graph, or by the runtime where that draws the tokens (flavours `coreml` and
    `coreai`).
    """

    groups: tuple[CacheGroup, ...]
    write: Literal["scratch", "inplace"]
    aliased: bool
    bytes: int

    @property
    def fed(self) -> tuple[CacheGroup, ...]:
        """The groups that the runtime holds, in the order of their layers' numbers."""
        return tuple(group for group in self.groups if group.held == "runtime")


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output as the session must report it; symbolic axes are strings."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class IoSpec:
    """Inputs and outputs of a graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class MatrixSpec:
    """How a matrix is stored: its format and, where quantized, how many weights of a row share a scale (0: all)."""

    format: WeightFormat
    block: int | None = None


@dataclass(frozen=True)
class PrefillSpec:
    """The graph that reads a prefix, and its inputs and outputs, where `decoder` takes one token at a time.

    What a whole prefix takes follows from the shapes of a layer: d `hidden_size`, `intermediate_size`, `heads`.
    `packed`: bytes of the weight file that an engine holds once for each of the two graphs, fp16 as float32; the rest
    are tables of which it reads rows.
    """

    file: str
    io: IoSpec
    hidden_size: int
    intermediate_size: int
    heads: int
    packed: int


@dataclass(frozen=True)
class WeightOverride:
    """Linear modules that are stored otherwise than the rest: a pattern of their names (`model.layers.0.*`)."""

    modules: str
    weights: WeightFormat
    block: int | None = None


@dataclass(frozen=True)
class WeightSpec:
    """How weights are stored: formats of layers, head and embedding; block sizes where quantized, 0 for whole rows.

    `block_size` is the layers', `head_block` that of head and embedding. The last of `overrides` whose pattern matches
    a module's name counts. `rounding`: to the nearest step, or so that the product over the voice's own speech changes
    least (GPTQ, arXiv 2210.17323).
    """

    layers: WeightFormat
    head: WeightFormat
    embedding: WeightFormat
    block_size: int | None
    head_block: int | None = None
    overrides: tuple[WeightOverride, ...] = ()
    rounding: Literal["nearest", "gptq"] = "nearest"

    @property
    def formats(self) -> set[WeightFormat]:
        """Every format that some matrix may be stored in."""
        return {self.layers, self.head, self.embedding, *(override.weights for override in self.overrides)}


@dataclass(frozen=True)
class HeadSpec:
    """Token id of each logit, as half-open ranges in order: `[[0, 6400], [6403, 6404]]`."""

    ids: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PromptSpec:
    """How a prefix is laid out.

    `layout` holds token ids and the fields `{text}`, `{prompt_text}`, `{prompt_codes}` in order; code c of the codec is
    token `code_offset + c`, `code_count` of them; `stop` ids end an utterance. `max_text_tokens` and `max_prompt_codes`
    are the longest the voice was trained for. `default` is the preset that speaks where none is asked for (None: the
    first by name).
    """

    layout: tuple[int | str, ...]
    code_offset: int
    code_count: int
    stop: tuple[int, ...]
    max_text_tokens: int
    max_prompt_codes: int
    default: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A speaker, `prompts/NAME.json`: codes of a clip, its words, and the lines on its licence and the consent."""

    codes: tuple[int, ...] = ()
    transcript: str = ""
    licence: str = ""
    consent: str = ""


@dataclass(frozen=True)
class PatchSpec:
    """How a voice is driven that takes one step for `size` tokens, k.

    By ONNX: a run of `decoder.onnx` reads a patch, or a piece of the prefix, and draws the k tokens that follow; names
    and rules of its inputs: `patch_contract.py`. By Core ML: see `CoremlPatchSpec`.

    `clip`: codes of the longest speaker prompt that fits. `window`, w: tokens that one sees in the compressor, itself
    included; of the group's slots those of what is said are w − 1 in a ring and k behind it, scratch, or a ring of all
    where caches are written in place (None: no such group). `speaker`: numbers of the vector that is made of the clip
    and fed to every run, there of `decode` (0: none). `token_bytes`: weights that each token drawn reads; those that a
    run reads once are all others.
    """

    size: int
    clip: int
    window: int | None
    speaker: int
    token_bytes: int


@dataclass(frozen=True)
class TextSpec:
    """Text front end: its kind and the bundle file that describes it."""

    kind: Literal["characters", "lexicon", "tokenizer"]
    file: str


@dataclass(frozen=True)
class SamplingSpec:
    """Sampling defaults; temperature 0 is greedy, top_k 0 and top_p 1 keep every token.

    `ras_window` 0 switches repetition-aware sampling off. Lengths in generated tokens are
    `min_ratio`/`max_ratio` × text tokens, plus `max_extra` for the upper one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    ras_window: int = 0
    ras_tau: float = 0.1
    min_ratio: float = 0.0
    max_ratio: float = 20.0
    max_extra: int = 25


@dataclass(frozen=True)
class StateSpec:
    """One streaming state tensor of the codec decoder: `state.{i}` in, `next_state.{i}` out, zeros at the start."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CodecSpec:
    """Codec graphs: `hop` samples per code.

    The first `delay` samples are dropped; `flush_codes` × `flush_code` are fed at the end to get the last ones out.
    Clips are brought to an RMS of `level` before they are encoded (None: taken as they are). `weights`: the decoder's.
    """

    sample_rate: int
    hop: int
    delay: int
    flush_codes: int
    flush_code: int
    states: tuple[StateSpec, ...]
    decoder: str = "codec_decoder.onnx"
    encoder: str | None = "codec_encoder.onnx"
    level: float | None = None
    weights: CodecFormat = "fp32"


@dataclass(frozen=True)
class CoremlPatchSpec:
    """Of a patch voice, whose host draws the tokens: functions beside `prefill` and `decode` (`coreml_patch.py` says
    how they are driven), by their inputs and outputs; of those of `decode` the host gives `told_…` to `extract`.

    Tables of the host, .npy float16: `start` [1, d], what stands before a patch's first token; rows [n, 2, D/2] by
    position, as `positions`, of both nets (`compress_positions`: None where patches are means alone).
    """

    compress: IoSpec
    extract: IoSpec
    start: str
    compress_positions: str | None
    extract_positions: str


@dataclass(frozen=True)
class CoremlSpec:
    """How a host drives what Apple runs (flavours `coreml`, `coreai`); `Manifest.io` is that of the function `decode`.

    The function `prefill`, of inputs and outputs `prefill`, reads `prefill_tokens` prefix tokens a run; the last one
    goes through `decode`. Caches [1, H, D, P + W] are states of both where `stateful`, as those of a patch voice's nets
    are of `compress` and of `extract`. Tables of the host, .npy float16: `embedding` [V, d]; `positions`
    [max_position, 2, D/2], cosines and sines, or [max_position, d] to add where not `rotary`; `codec_values` [codes,
    dims]. The codec has a function `codes_N` for each N of `codec_codes`. `patch`: None where `decode` gives logits.
    """

    prefill: IoSpec
    prefill_tokens: int
    stateful: bool
    rotary: bool
    embedding: str
    positions: str
    codec_values: str | None
    codec_codes: tuple[int, ...]
    patch: CoremlPatchSpec | None = None


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`, whole. A `--decoder-only` bundle has neither prompt, text, sampling nor codec.

    `decoder` is a graph of inputs and outputs `io`; `prefill` is None where it reads prefixes too (flavour `ort`).
    `patch` is None where a step says one token, drawn from the logits it gives. `max_new_tokens` is the voice's longest
    utterance in generated tokens (None: not known, as for a decoder alone); `max_position` counts prefix and utterance.
    """

    schema: int
    files: dict[str, FileEntry]
    source: str
    tools: dict[str, str]
    flavour: Flavour
    min_onnxruntime: str
    cache: CacheSpec
    io: IoSpec
    weights: WeightSpec
    head: HeadSpec
    max_position: int
    prompt: PromptSpec | None
    text: TextSpec | None
    sampling: SamplingSpec | None
    codec: CodecSpec | None
    parity: Literal["passed", "failed"]
    warnings: tuple[str, ...] = ()
    history: list[dict[str, Any]] = field(default_factory=list)
    decoder: str = "decoder.onnx"
    max_new_tokens: int | None = None
    patch: PatchSpec | None = None
    coreml: CoremlSpec | None = None
    prefill: PrefillSpec | None = None

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder; BundleError where there is none, or a newer one, or one against the contract."""
    path = folder / MANIFEST
    if not path.exists():
        raise BundleError(f"{path} is missing: {folder} is not a bundle (sottovoce export VOICE -o {folder})")
    value = read_json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(f"{path}: schema {schema} is newer than {SCHEMA}; update sottovoce")
    manifest: Manifest = parse(Manifest, value, str(path))
    if schema != SCHEMA:
        raise BundleError(f"{path}: schema {schema} is older than {SCHEMA}; export the voice again")
    return manifest
