"""The fused graph of a patch voice: one run reads a patch, or the whole prefix, and says the next k tokens.

compressor → backbone → extractor in a loop, with the sampler inside it. Letters: T text tokens, N patches, k tokens of
a patch, C = N·k, M positions of the backbone, d hidden size, P prefix slots, W window of patches, w of tokens.

What the backbone reads is picked by `source` [M] from T embedded tokens and N patches behind them. In the prefix these
are text and the clip's patches; after it one patch, that which was said, and any one token that `source` leaves out.
`patch_ids` [N,k] hold -1 behind the last token of a short patch; a clip without codes is a patch of -1 alone, which
`source` leaves out. `speaker` [1,1,d] gains `speaker_share` [1,1,N] of the patches: 1/count each in the clip's run, 0
afterwards, when what came out as `next_speaker` is fed.

Caches: group `backbone` as in a plain voice, in patches. Group `compressor`, in tokens, no prefix: the clip takes slots
from 0 on (`seqlens_k` = C − 1). What is said starts afresh at position 0: k tokens take the k slots behind the first
w − 1 (`seqlens_k` = w + k − 2), token t then moves to slot t mod (w − 1). Each of the two has its own `attention_bias`,
which hides empty slots and tokens out of the window; among the tokens of one run attention is causal by itself.
"""

from dataclasses import dataclass
from pathlib import Path

from sottovoce.errors import OptionError, OutputError
from sottovoce.export.blobs import WeightFile
from sottovoce.export.formats import weights_for
from sottovoce.export.graph import Backbone, make_decoder
from sottovoce.export.head import ranges_of
from sottovoce.export.patch_nets import COMPRESSOR_POSITIONS, COMPRESSOR_WIRES, CompressorNodes, ExtractorNodes
from sottovoce.export.patch_sampler import SAMPLING_INPUTS, GraphSampler
from sottovoce.export.token_loop import TokenLoop
from sottovoce.export.weight_recipe import WeightRecipe
from sottovoce.export.weights import Nodes, Source
from sottovoce.models.config import DecoderConfig
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.contract import STEP_INPUTS, cache_tensors
from sottovoce.runtime.manifest import CacheGroup, CacheSpec, IoSpec, TensorSpec, WeightFormat

GRAPH = "decoder.onnx"
DATA = "decoder.onnx.data"


@dataclass(frozen=True)
class PatchOptions:
    """What is asked of an export.

    `prefix` P ≥ 1 positions, `window` W ≥ 2 patches, `clip` codes of the longest clip; `max_position` positions of the
    backbone that the graph knows (at least P + W).
    """

    weights: WeightFormat | WeightRecipe
    prefix: int
    window: int
    clip: int
    max_position: int


class PatchSource(Source):
    """Weights by name, of the backbone as in any checkpoint and of the nets around it as in theirs."""

    def __init__(self, decoder: PatchDecoder) -> None:
        """Reads no weight."""
        super().__init__(decoder.backbone)
        nets = {name: t for name, t in decoder.state_dict().items() if not name.startswith("backbone.")}
        self._tensor = {**decoder.backbone.state_dict(), **nets}.__getitem__
        self.shapes |= {name: tuple(tensor.shape) for name, tensor in nets.items()}


def export_patches(decoder: PatchDecoder, stop: tuple[int, ...], options: PatchOptions, folder: Path) -> CacheSpec:
    """Write `decoder.onnx` and `decoder.onnx.data` into an existing folder; `stop` ids end an utterance.

    Raises OptionError where an option cannot be honoured, OutputError where a file cannot be written.
    """
    _check(decoder, options)
    cache = patch_cache(decoder.backbone.config, decoder.config, options)
    nodes = Nodes(PatchSource(decoder), WeightFile(DATA))
    _emit(nodes, decoder, stop, options)
    model = make_decoder(nodes, patch_io(decoder.config, cache, decoder.backbone.config.hidden_size))
    try:
        (folder / GRAPH).write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise OutputError(f"{folder / GRAPH} cannot be written: {error}") from error
    nodes.file.write(folder)
    return cache


def patch_io(config: PatchConfig, cache: CacheSpec, width: int) -> IoSpec:
    """Inputs and outputs of the graph; d = `width`."""
    inputs = [*STEP_INPUTS[:1], TensorSpec("patch_ids", "tensor(int64)", ("N", config.patch))]
    inputs += [TensorSpec("source", "tensor(int64)", ("M",)), *_attended(STEP_INPUTS[1:], "M")]
    if len(cache.groups) > 1:
        names = [COMPRESSOR_POSITIONS, *COMPRESSOR_WIRES]
        specs = zip(names, _attended(STEP_INPUTS[1:], "C"), strict=True)
        inputs += [TensorSpec(name, spec.dtype, spec.shape) for name, spec in specs]
    speaks = config.speaker == "pooled"
    if speaks:
        inputs += [TensorSpec("speaker", "tensor(float)", (1, 1, width))]
        inputs += [TensorSpec("speaker_share", "tensor(float)", (1, 1, "N"))]
    outputs = [TensorSpec("token_ids", "tensor(int64)", ("n",)), TensorSpec("count", "tensor(int64)", ())]
    outputs += [TensorSpec("next_history", "tensor(int64)", ("R",))]
    outputs += [TensorSpec("next_speaker", "tensor(float)", (1, 1, width))] * speaks
    past, present = (tuple(cache_tensors(cache, stem)) for stem in ("past_key_values", "present"))
    return IoSpec((*inputs, *SAMPLING_INPUTS, *past), (*outputs, *present))


def _attended(specs: tuple[TensorSpec, ...], count: str) -> list[TensorSpec]:
    """The inputs of one group's attention over `count` at a time; each group has a total of its own."""
    axes = {"T": count, "total": f"{count}_total"}
    return [TensorSpec(s.name, s.dtype, tuple(axes.get(str(axis), axis) for axis in s.shape)) for s in specs]


def patch_cache(backbone: DecoderConfig, config: PatchConfig, options: PatchOptions) -> CacheSpec:
    """The groups: the backbone's, and the compressor's where it has layers; the clip fits into the latter whole."""
    groups = [
        CacheGroup(
            "backbone",
            backbone.layers,
            backbone.kv_heads,
            backbone.head_dim,
            options.prefix,
            options.window,
            "patch",
            "fp32",
        )
    ]
    if config.compressor == "attention":
        shape = config.compressor_layers.tokens(backbone)
        slots = max(config.window - 1 + config.patch, -(-options.clip // config.patch) * config.patch)
        groups += [CacheGroup("compressor", shape.layers, shape.kv_heads, shape.head_dim, 0, slots, "token", "fp32")]
    return CacheSpec(tuple(groups), write="scratch", aliased=True, bytes=sum(group.nbytes for group in groups))


def _emit(nodes: Nodes, decoder: PatchDecoder, stop: tuple[int, ...], options: PatchOptions) -> None:
    """Every node, in the order in which data walks."""
    config, weights = decoder.config, weights_for(options.weights, decoder.backbone.config)
    ranges = ranges_of(decoder.spoken.tolist())
    backbone = Backbone(nodes, weights, options.max_position)
    longest = max(config.patch * options.max_position, options.clip + config.patch)
    compressor = CompressorNodes(nodes, weights, config, backbone.config.layers, longest)
    extractor = ExtractorNodes(nodes, weights, config, ranges)
    text = weights.embedding(nodes, "input_ids")
    patches = compressor.patches(weights.embedding(nodes, _code_ids(nodes), "patch.embed_tokens"), "patch_ids")
    read = nodes.add("Concat", [text, patches], "readable", axis=1)
    hidden = backbone.hidden(nodes.add("Gather", [read, "source"], "read", axis=1))
    context = nodes.add("Gather", [hidden, nodes.integers("last", [-1])], "context", axis=1)
    start = extractor.begin(context, _speaker(nodes, patches) if config.speaker == "pooled" else "")
    TokenLoop(nodes, extractor, GraphSampler(nodes, ranges, stop)).emit(start)


def _code_ids(nodes: Nodes) -> str:
    """`patch_ids` in a row [1,C], 0 for padding: its embedding is not read."""
    real = nodes.add("Max", ["patch_ids", nodes.integers("patch.padding", 0)], "patch.ids")
    return nodes.add("Reshape", [real, nodes.integers("patch.row", [1, -1])], "patch.row_ids")


def _speaker(nodes: Nodes, patches: str) -> str:
    """The speaker so far, with the share of this run's patches, [1,1,d]."""
    gained = nodes.add("MatMul", ["speaker_share", patches], "speaker.gained")
    return nodes.add("Add", ["speaker", gained], "next_speaker")


def _check(decoder: PatchDecoder, options: PatchOptions) -> None:
    """Raise OptionError for what the fused op would refuse, or get wrong, in mid-speech."""
    backbone, config = decoder.backbone.config, decoder.config
    dims = {"extractor": config.extractor_layers.head_dim}
    if config.compressor == "attention":
        dims["compressor"] = config.compressor_layers.head_dim
    if not backbone.traits.learned_positions:
        dims["backbone"] = backbone.head_dim
    for net, size in dims.items():
        if size % 16:
            raise OptionError(f"{net}: head_dim {size} is not a multiple of 16: the fused attention takes no other")
    if options.prefix < 1 or options.window < 2:
        raise OptionError(f"prefix {options.prefix} and window {options.window}: at least 1 slot and 2 patches")
    if options.max_position < (slots := options.prefix + options.window):
        raise OptionError(f"{options.max_position} positions are too few for {slots} slots")
