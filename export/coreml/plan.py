"""What is asked of a Core ML export, and what it would write."""

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from sottovoce.errors import OptionError
from sottovoce.export.coreml.convert import Compression
from sottovoce.export.coreml.kinds import COREML, Kind
from sottovoce.export.coreml.layout import ALIGNED, Layout
from sottovoce.export.decoder import DecoderOptions
from sottovoce.export.head import check_ranges
from sottovoce.export.plan import Ranges, Request, Window, plan_export
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import CacheGroup, CacheSpec

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

    options: DecoderOptions
    layout: Layout
    cache: CacheSpec
    ranges: Ranges
    codec: dict[str, onnx.ModelProto]
    copies: dict[str, Path]
    warnings: tuple[str, ...]


def plan_coreml(voice: Voice, request: CoreRequest) -> CorePlan:
    """Check `request` against `voice`; the prefix grows until P + W is a multiple of 32.

    Raises OptionError or VoiceError where it cannot be honoured.
    """
    voice.refuse_patches(
        f"--target {request.kind.flavour} knows voices of tokens alone, export the one that it was made of"
    )
    plan = plan_export(voice, Request("fp32", request.window, request.prefix, request.decoder_only, request.head_ids))
    config, options = voice.checkpoint.config, plan.options
    assert isinstance(options, DecoderOptions)
    more = -(options.prefix + options.window) % ALIGNED
    options = replace(options, prefix=options.prefix + more, max_position=options.max_position + more)
    if config.traits.learned_positions and options.max_position > config.max_position:
        raise OptionError(
            f"P + W must be a multiple of {ALIGNED}: with --prefix {options.prefix} positions pass the checkpoint's "
            f"{config.max_position}, lower --prefix or --window"
        )
    group = CacheGroup(
        "backbone", config.layers, config.kv_heads, config.head_dim, options.prefix, options.window, "token", "fp16"
    )
    # Past and present are two sets, unless Core ML keeps them.
    cache = CacheSpec((group,), write="inplace", aliased=request.stateful, bytes=group.nbytes * (2 - request.stateful))
    ranges = check_ranges(options.head_ranges, config.vocab_size)
    logits = sum(end - start for start, end in ranges)
    layout = Layout(config, group.slots, logits, PREFILL_TOKENS, request.stateful)
    codec = {name: graph for name, graph in plan.codec.items() if name == ENCODER}
    warnings = (*plan.warnings, *([request.kind.warning] if request.kind.warning else []))
    return CorePlan(options, layout, cache, ranges, codec, plan.copies, warnings)
