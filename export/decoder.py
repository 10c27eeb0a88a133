"""Checkpoint → the decoder's graphs + `decoder.onnx.data`, with the parts of the manifest that describe them.

Flavour `ort`: `decoder.onnx`. Flavour `portable`: `prefill.onnx` and `decode.onnx`, over the same weights.

`plan_decoder` answers the same questions as `export_decoder` without reading a weight or writing a file. Neither
verifies (`parity.py` does) nor knows about bundles, codecs or text.
"""

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto

from sottovoce.errors import OptionError, OutputError
from sottovoce.export.blobs import WeightFile
from sottovoce.export.cache_scales import ScaleTable, Utterance
from sottovoce.export.formats import check_overrides, weights_for
from sottovoce.export.gptq import Listener
from sottovoce.export.graph import build_graph, io_spec
from sottovoce.export.head import Ranges, check_ranges
from sottovoce.export.matrices import Rounding, nearest
from sottovoce.export.portable_graph import PortableBackbone
from sottovoce.export.qdq import portable_weights_for
from sottovoce.export.weight_recipe import WeightRecipe, recipe_of
from sottovoce.export.weights import Nodes, Source
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import (
    CacheFormat,
    CacheGroup,
    CacheSpec,
    Flavour,
    HeadSpec,
    IoSpec,
    Manifest,
    PatchSpec,
    PrefillSpec,
    WeightFormat,
    WeightSpec,
)
from sottovoce.runtime.portable_contract import DECODE, PREFILL, decode_io, prefill_io

GRAPH = "decoder.onnx"
DATA = "decoder.onnx.data"

BYTE_CACHE_ONNXRUNTIME = "1.27"
"""The first version whose fused attention takes an int8 cache (1.22 to 1.26 refuse)."""

PORTABLE_ONNXRUNTIME = "1.21"
"""The oldest version that the portable flavour was run on."""


@dataclass(frozen=True)
class DecoderOptions:
    """What is asked of an export.

    `prefix` P ≥ 1 and `window` W ≥ 2 in slots; `max_position` is how many positions the graph knows (at least P + W;
    the highest position ever fed is one less); `head_ranges` half-open ranges of token ids to keep logits of, in order,
    None for all; `cache` the numbers that keys and values are kept in; `heard` what an int8 cache's scales are taken
    from, one utterance at least; `speech` what the voice says, where the recipe of the weights calibrates; `flavour`
    the graphs to make.
    """

    weights: WeightFormat | WeightRecipe
    prefix: int
    window: int
    max_position: int
    head_ranges: tuple[tuple[int, int], ...] | None = None
    cache: CacheFormat = "fp32"
    heard: tuple[Utterance, ...] = ()
    speech: tuple[Utterance, ...] = ()
    flavour: Flavour = "ort"


@dataclass(frozen=True)
class DecoderParts:
    """The manifest's account of a decoder's graphs; `sizes` maps file name → bytes."""

    flavour: Flavour
    min_onnxruntime: str
    cache: CacheSpec
    io: IoSpec
    weights: WeightSpec
    head: HeadSpec
    max_position: int
    sizes: dict[str, int]
    patch: PatchSpec | None = None
    decoder: str = GRAPH
    prefill: PrefillSpec | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "DecoderParts":
        """The parts a bundle's manifest records."""
        alike = ("flavour", "min_onnxruntime", "cache", "io", "weights", "head", "max_position", "patch")
        names = (*alike, "decoder", "prefill")
        files = (manifest.decoder, DATA, *([manifest.prefill.file] if manifest.prefill else []))
        sizes = {name: manifest.files[name].size for name in files}
        return cls(**{name: getattr(manifest, name) for name in names}, sizes=sizes)


def plan_decoder(source: Checkpoint | Decoder, options: DecoderOptions) -> DecoderParts:
    """What `export_decoder` would write, sizes included, with no weight read and no file written.

    Raises OptionError where an option cannot be honoured for this decoder.
    """
    return _build(source, options)[2]


def export_decoder(source: Checkpoint | Decoder, options: DecoderOptions, folder: Path) -> DecoderParts:
    """Write the graphs and `decoder.onnx.data` into an existing folder, one weight in memory at a time.

    Raises OptionError where an option cannot be honoured, VoiceError where a weight cannot be read, OutputError where a
    file cannot be written (the caller owns the folder and removes it).
    """
    if recipe_of(options.weights).calibrate and not options.speech:
        raise OptionError("--calibrate listens to what a voice says: a decoder alone says nothing")
    graphs, file, parts = _build(source, options)
    for name, graph in graphs.items():
        try:
            (folder / name).write_bytes(graph)
        except OSError as error:
            raise OutputError(f"{folder / name} cannot be written: {error}") from error
    file.write(folder)
    return parts


def _build(source: Checkpoint | Decoder, options: DecoderOptions) -> tuple[dict[str, bytes], WeightFile, DecoderParts]:
    """The serialized graphs, the weight file they point into (not written yet), and what the manifest says of them."""
    config = source.config
    _check(config, options)
    ranges = check_ranges(options.head_ranges, config.vocab_size)
    emit = _portable if options.flavour == "portable" else _fused
    check_overrides(options.weights, Source(source))
    rounding = _listener(source, options).round if options.speech else nearest
    made = emit(source, options, ranges, rounding)
    graphs = {name: model.SerializeToString(deterministic=True) for name, model in made.models.items()}
    parts = DecoderParts(
        flavour=options.flavour,
        min_onnxruntime=made.min_onnxruntime,
        cache=_cache(config, options),
        io=made.io,
        weights=made.weights,
        head=HeadSpec(ranges),
        max_position=options.max_position,
        sizes={**{name: len(graph) for name, graph in graphs.items()}, DATA: made.file.size},
        decoder=next(iter(graphs)),
        prefill=made.prefill,
    )
    return graphs, made.file, parts


@dataclass(frozen=True)
class _Made:
    """Models by file name, the one that takes single tokens first, over one weight file."""

    models: dict[str, ModelProto]
    file: WeightFile
    io: IoSpec
    weights: WeightSpec
    min_onnxruntime: str
    prefill: PrefillSpec | None = None


def _fused(source: Checkpoint | Decoder, options: DecoderOptions, ranges: Ranges, rounding: Rounding) -> _Made:
    """One graph for prefixes and tokens."""
    weights, file = weights_for(options.weights, source.config, rounding), WeightFile(DATA)
    io = io_spec(_cache(source.config, options), _count(ranges))
    scales, half = _scales(source, options), options.cache == "fp16"
    model = build_graph(Nodes(Source(source), file), weights, io, ranges, options.max_position, scales, half)
    least = BYTE_CACHE_ONNXRUNTIME if scales else weights.min_onnxruntime
    return _Made({GRAPH: model}, file, io, weights.spec, least)


def _portable(source: Checkpoint | Decoder, options: DecoderOptions, ranges: Ranges, rounding: Rounding) -> _Made:
    """Two graphs whose weight files are the same, so that one is written."""
    cache, count, scales = _cache(source.config, options), _count(ranges), _scales(source, options)
    ios = {DECODE: decode_io(cache, count), PREFILL: prefill_io(cache, count)}
    models: dict[str, ModelProto] = {}
    for name, io in ios.items():
        weights, file = portable_weights_for(options.weights, source.config, rounding), WeightFile(DATA)
        walk = PortableBackbone(
            Nodes(Source(source), file), weights, options.max_position, cache.groups[0], scales, name == PREFILL
        )
        models[name] = walk.model(io, ranges)
    config = source.config
    shapes = (config.hidden_size, config.intermediate_size, config.heads)
    prefill = PrefillSpec(PREFILL, ios[PREFILL], *shapes, _packed(models[PREFILL], file))
    return _Made(models, file, ios[DECODE], weights.spec, PORTABLE_ONNXRUNTIME, prefill)


def _packed(model: ModelProto, file: WeightFile) -> int:
    """Bytes of the weights that `model` reads whole, which an engine copies or packs; of fp16 it makes float32."""
    read = {name for node in model.graph.node if node.op_type != "Gather" for name in node.input}
    half = {tensor.name for tensor in file.initializers if tensor.data_type == TensorProto.FLOAT16}
    return file.nbytes(read) + file.nbytes(read & half)


def _scales(source: Checkpoint | Decoder, options: DecoderOptions) -> ScaleTable | None:
    """Of an int8 cache."""
    return ScaleTable(source, options.heard, options.window) if options.cache == "int8" else None


def _count(ranges: Ranges) -> int:
    """How many logits there are."""
    return sum(end - start for start, end in ranges)


def _listener(source: Checkpoint | Decoder, options: DecoderOptions) -> Listener:
    """What hears the inputs of every layer; of a checkpoint all weights are loaded, float32."""
    decoder = source.load() if isinstance(source, Checkpoint) else source
    return Listener(decoder, options.speech, options.window)


def _cache(config: DecoderConfig, options: DecoderOptions) -> CacheSpec:
    """One group of P + W slots, kept once; past and present share one buffer where the fused op allows it."""
    group = CacheGroup(
        name="backbone",
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        prefix=options.prefix,
        window=options.window,
        unit="token",
        dtype=options.cache,
    )
    return CacheSpec((group,), write="scratch", aliased=options.flavour == "ort", bytes=group.nbytes)


def _check(config: DecoderConfig, options: DecoderOptions) -> None:
    """Raise OptionError for what an operator would refuse, or get wrong, in mid-speech."""
    if options.cache == "int8" and not options.heard:
        raise OptionError("--cache int8 takes its scales from what the voice says, and none of that is known")
    learned = config.traits.learned_positions
    if options.flavour == "ort" and config.head_dim % (multiple := 8 if learned else 16):
        raise OptionError(
            f"head_dim {config.head_dim} is not a multiple of {multiple}, the fused attention takes no other: "
            "use --flavour portable"
        )
    if options.prefix < 1:
        raise OptionError(f"--prefix {options.prefix}: at least 1 slot is needed")
    if options.window < 2:
        raise OptionError(f"--window {options.window}: at least 2, the current token and one before it")
    if options.max_position < options.prefix + options.window:
        slots = options.prefix + options.window
        raise OptionError(f"{options.max_position} positions are too few for {slots} slots: lower --window or --prefix")
    check_learned(config, options.max_position)


def check_learned(config: DecoderConfig, positions: int) -> None:
    """Raise OptionError where more positions are asked for than the decoder has learned, if it has learned them."""
    if config.traits.learned_positions and positions > config.max_position:
        raise OptionError(
            f"{positions} positions are asked for and the checkpoint has learned {config.max_position}: "
            "lower --prefix or --window, or the voice's max_new_tokens"
        )
