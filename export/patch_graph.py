"""The fused graph of a patch voice: one run reads a patch, or a piece of the prefix, and draws the next k tokens.

compressor → backbone → extractor in a loop, with the sampler inside it; `runtime/patch_contract.py` tells what goes in
and comes out. Letters as there.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from sottovoce.errors import OptionError, OutputError
from sottovoce.export.blobs import WeightFile
from sottovoce.export.decoder import DATA, GRAPH, DecoderParts, check_learned
from sottovoce.export.formats import check_overrides, weights_for
from sottovoce.export.graph import Backbone, make_decoder
from sottovoce.export.head import speech_ranges
from sottovoce.export.patch_nets import CompressorNodes, ExtractorNodes
from sottovoce.export.patch_sampler import GraphSampler
from sottovoce.export.token_loop import TokenLoop
from sottovoce.export.weight_recipe import WeightRecipe, recipe_of
from sottovoce.export.weights import Nodes, Source, Weights
from sottovoce.models.config import DecoderConfig
from sottovoce.models.patch.checkpoint import PatchCheckpoint, net_shapes
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.contract import cache_tensors
from sottovoce.runtime.manifest import CacheGroup, CacheSpec, HeadSpec, IoSpec, PatchSpec, PromptSpec, WeightFormat
from sottovoce.runtime.patch_contract import patch_inputs, patch_outputs

Patches = PatchDecoder | PatchCheckpoint
"""Where the weights come from."""


@dataclass(frozen=True)
class PatchOptions:
    """What is asked of an export.

    `prefix` P ≥ 1 slots, `window` W ≥ 2 patches, `clip` codes of the longest clip; `max_position` tokens of prefix and
    utterance together (at least P + W).
    """

    weights: WeightFormat | WeightRecipe
    prefix: int
    window: int
    clip: int
    max_position: int


class PatchSource(Source):
    """Weights by name, of the backbone as in any checkpoint and of the nets around it as in theirs."""

    def __init__(self, patches: Patches) -> None:
        """Reads no weight."""
        super().__init__(patches.backbone)
        nets, backbone = net_shapes(self.config, patches.config), self._tensor
        read = patches.read_net if isinstance(patches, PatchCheckpoint) else patches.state_dict().__getitem__
        self._tensor = lambda name: read(name) if name in nets else backbone(name)
        self.shapes |= nets


def plan_patches(patches: Patches, prompt: PromptSpec, options: PatchOptions) -> DecoderParts:
    """What `export_patches` would write, sizes included, with no weight read and no file written.

    Raises OptionError where an option cannot be honoured.
    """
    return _build(patches, prompt, options)[2]


def export_patches(patches: Patches, prompt: PromptSpec, options: PatchOptions, folder: Path) -> DecoderParts:
    """Write `decoder.onnx` and `decoder.onnx.data` into an existing folder; `prompt` says what can be spoken.

    Raises OptionError where an option cannot be honoured, VoiceError where a weight cannot be read, OutputError where a
    file cannot be written.
    """
    graph, file, parts = _build(patches, prompt, options)
    try:
        (folder / GRAPH).write_bytes(graph)
    except OSError as error:
        raise OutputError(f"{folder / GRAPH} cannot be written: {error}") from error
    file.write(folder)
    return parts


def _build(patches: Patches, prompt: PromptSpec, options: PatchOptions) -> tuple[bytes, WeightFile, DecoderParts]:
    """The serialized graph, the weight file it points into (not written yet), and what the manifest says of them."""
    backbone, config = patches.backbone.config, patches.config
    _check(backbone, config, options)
    cache = patch_cache(backbone, config, options)
    spec = PatchSpec(
        size=config.patch,
        clip=options.clip,
        window=config.window if config.compressor == "attention" else None,
        speaker=backbone.hidden_size if config.speaker == "pooled" else 0,
        token_bytes=0,
    )
    past, present = (tuple(cache_tensors(cache, stem)) for stem in ("past_key_values", "present"))
    io = IoSpec((*patch_inputs(spec), *past), (*patch_outputs(spec), *present))
    source = PatchSource(patches)
    check_overrides(options.weights, source)
    weights, nodes = weights_for(options.weights, backbone), Nodes(source, WeightFile(DATA))
    _emit(nodes, weights, config, prompt, options)
    graph = make_decoder(nodes, io).SerializeToString(deterministic=True)
    parts = DecoderParts(
        flavour="ort",
        min_onnxruntime=weights.min_onnxruntime,
        cache=cache,
        io=io,
        weights=weights.spec,
        head=HeadSpec(speech_ranges(prompt)),
        max_position=options.max_position,
        sizes={GRAPH: len(graph), DATA: nodes.file.size},
        patch=replace(spec, token_bytes=_token_bytes(nodes)),
    )
    return graph, nodes.file, parts


def _token_bytes(nodes: Nodes) -> int:
    """Bytes of weights that the loop reads for each token; of the embedding that is a row, which does not count."""
    (loop,) = (node for node in nodes.nodes if node.op_type == "Loop")
    body = (node for node in loop.attribute[0].g.node if "Gather" not in node.op_type)
    return nodes.file.nbytes(name for node in body for name in node.input)


def patch_cache(backbone: DecoderConfig, config: PatchConfig, options: PatchOptions) -> CacheSpec:
    """The groups: the backbone's; the compressor's where it has layers, the clip fits whole; the extractor's."""

    def group(name: str, shape: DecoderConfig, prefix: int, window: int) -> CacheGroup:
        unit, held = ("patch" if prefix else "token"), ("graph" if name == "extractor" else "runtime")
        sizes = shape.layers, shape.kv_heads, shape.head_dim, prefix, window
        return CacheGroup(name, *sizes, unit, "fp32", held)  # type: ignore[arg-type]

    groups = [group("backbone", backbone, options.prefix, options.window)]
    if config.compressor == "attention":
        slots = max(config.window - 1 + config.patch, -(-options.clip // config.patch) * config.patch)
        groups.append(group("compressor", config.compressor_layers.tokens(backbone), 0, slots))
    size = sum(group.nbytes for group in groups)
    groups.append(group("extractor", config.extractor_layers.tokens(backbone), 0, config.patch))
    return CacheSpec(tuple(groups), write="scratch", aliased=True, bytes=size)


def _emit(nodes: Nodes, weights: Weights, config: PatchConfig, prompt: PromptSpec, options: PatchOptions) -> None:
    """Every node, in the order in which data walks."""
    ranges = speech_ranges(prompt)
    backbone = Backbone(nodes, weights, options.max_position)
    longest = max(options.max_position, options.clip + config.patch, config.window + config.patch)
    compressor = CompressorNodes(nodes, weights, config, backbone.config.layers, longest)
    extractor = ExtractorNodes(nodes, weights, config, ranges)
    text = weights.embedding(nodes, "input_ids")
    patches = compressor.patches(weights.embedding(nodes, _code_ids(nodes), "patch.embed_tokens"), "patch_ids")
    read = nodes.add("Concat", [text, patches], "readable", axis=1)
    hidden = backbone.hidden(nodes.add("Gather", [read, "source"], "read", axis=1))
    context = nodes.add("Gather", [hidden, nodes.integers("last", [-1])], "context", axis=1)
    start = extractor.begin(context, _speaker(nodes, patches) if config.speaker == "pooled" else "")
    TokenLoop(nodes, extractor, GraphSampler(nodes, ranges, prompt.stop)).emit(start)


def _code_ids(nodes: Nodes) -> str:
    """`patch_ids` in a row [1,C], 0 for padding: its embedding is not read."""
    real = nodes.add("Max", ["patch_ids", nodes.integers("patch.padding", 0)], "patch.ids")
    return nodes.add("Reshape", [real, nodes.integers("patch.row", [1, -1])], "patch.row_ids")


def _speaker(nodes: Nodes, patches: str) -> str:
    """The speaker so far, with the share of this run's patches, [1,1,d]."""
    gained = nodes.add("MatMul", ["speaker_share", patches], "speaker.gained")
    return nodes.add("Add", ["speaker", gained], "next_speaker")


def _check(backbone: DecoderConfig, config: PatchConfig, options: PatchOptions) -> None:
    """Raise OptionError for what the fused op would refuse, or get wrong, in mid-speech."""
    if recipe_of(options.weights).calibrate:
        raise OptionError("--calibrate knows voices of tokens alone so far")
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
    check_learned(backbone, options.max_position)
