"""What is asked of a Core ML export, and what it would write."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from sottovoce.errors import OptionError
from sottovoce.export.coreml.convert import Compression
from sottovoce.export.coreml.kinds import COREML, Kind
from sottovoce.export.coreml.layout import ALIGNED, Layout
from sottovoce.export.coreml.patch_layout import PatchLayout, aligned
from sottovoce.export.decoder import DecoderOptions
from sottovoce.export.head import check_ranges, speech_ranges
from sottovoce.export.patch_graph import PatchOptions
from sottovoce.export.plan import Ranges, Request, Window, plan_export
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import CacheGroup, CacheSpec

AnyOptions = DecoderOptions | PatchOptions

PREFILL_TOKENS = 32
"""Prefix tokens per run of `prefill`: a whole line of the engine's memory."""

ENCODER = "codec_encoder.onnx"
"""Clips become codes by ONNX: that happens once per speaker, and no phone needs it in mid-speech."""


@dataclass(frozen=True)
class CoreRequest:
    """What a user asks of an export for Apple's runtimes, of which `kind`; None leaves the choice to the voice."""

    weights: Compression = "fp16"
    window: Window | None = None
    prefix: int | None = None
    decoder_only: bool = False
    head_ids: Ranges | None = None
    stateful: bool = False
    kind: Kind = COREML


@dataclass(frozen=True)
class CorePlan:
    """A request that can be honoured."""

    options: AnyOptions
    layout: Layout
    cache: CacheSpec
    ranges: Ranges
    codec: dict[str, onnx.ModelProto]
    copies: dict[str, Path]
    warnings: tuple[str, ...]


def load_decoder(voice: Voice) -> Decoder | PatchDecoder:
    """The voice's decoder, of tokens or of patches."""
    return voice.patches().load() if voice.spec and voice.spec.patch else voice.checkpoint.load()


def plan_coreml(voice: Voice, request: CoreRequest) -> CorePlan:
    """Check `request` against `voice`; the prefix grows until P + W is a multiple of 32.

    Raises OptionError or VoiceError where it cannot be honoured.
    """
    plan = plan_export(voice, Request("fp32", request.window, request.prefix, request.decoder_only, request.head_ids))
    config, options = voice.checkpoint.config, plan.options
    more = -(options.prefix + options.window) % ALIGNED
    options = replace(options, prefix=options.prefix + more, max_position=options.max_position + more)
    if config.traits.learned_positions and options.max_position > config.max_position:
        raise OptionError(
            f"P + W must be a multiple of {ALIGNED}: with --prefix {options.prefix} positions pass the checkpoint's "
            f"{config.max_position}, lower --prefix or --window"
        )
    layout = _layout(voice, options, request.stateful)
    groups = cache_groups(layout, options.prefix, options.window)
    # Past and present are two sets, unless Core ML keeps them.
    size = sum(group.nbytes for group in groups) * (2 - request.stateful)
    cache = CacheSpec(groups, write="inplace", aliased=request.stateful, bytes=size)
    codec = {name: graph for name, graph in plan.codec.items() if name == ENCODER}
    warnings = (*plan.warnings, *([request.kind.warning] if request.kind.warning else []))
    return CorePlan(options, layout, cache, _ranges(voice, options), codec, plan.copies, warnings)


def _ranges(voice: Voice, options: AnyOptions) -> Ranges:
    """Ids with logits: those that are asked for, or a patch voice's codes and stops."""
    asked = options.head_ranges if isinstance(options, DecoderOptions) else speech_ranges(voice.complete().prompt)
    return check_ranges(asked, voice.checkpoint.config.vocab_size)


def _layout(voice: Voice, options: AnyOptions, stateful: bool) -> Layout:
    """Sizes of the package."""
    logits = sum(end - start for start, end in _ranges(voice, options))
    sizes = voice.checkpoint.config, options.prefix + options.window, logits, PREFILL_TOKENS
    if isinstance(options, DecoderOptions):
        return Layout(*sizes, stateful)
    return PatchLayout(*sizes, stateful, voice.patches().config)


def cache_groups(layout: Layout, prefix: int, window: int) -> tuple[CacheGroup, ...]:
    """The groups of a package in half precision, all held by the runtime."""

    def group(name: str, shape: DecoderConfig, prefix: int, window: int, unit: Literal["token", "patch"]) -> CacheGroup:
        return CacheGroup(name, shape.layers, shape.kv_heads, shape.head_dim, prefix, window, unit, "fp16")

    if not isinstance(layout, PatchLayout):
        return (group("backbone", layout.config, prefix, window, "token"),)
    patches, groups = layout.patches, [group("backbone", layout.config, prefix, window, "patch")]
    if patches.compressor == "attention":
        shape = patches.compressor_layers.tokens(layout.config)
        groups.append(group("compressor", shape, 0, layout.ring, "token"))
    shape = patches.extractor_layers.tokens(layout.config)
    return (*groups, group("extractor", shape, 0, aligned(patches.patch), "token"))
