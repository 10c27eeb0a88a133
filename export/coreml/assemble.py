"""Voice → Core ML or Core AI bundle: packages, tables, text, prompts, manifest and proof, whole or not at all."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from sottovoce.errors import ParityError
from sottovoce.export.bundle_writer import TOOLS, check_target, file_entries, staged_folder, tool_versions
from sottovoce.export.coreml import codec as core_codec
from sottovoce.export.coreml.bundle_verify import CoreParity, verify_coreml
from sottovoce.export.coreml.convert import BLOCK, WEIGHT_BYTES, Compression
from sottovoce.export.coreml.decoder import (
    COMPRESS_POSITIONS,
    EMBEDDING,
    EXTRACT_POSITIONS,
    POSITIONS,
    START,
    write_decoder,
)
from sottovoce.export.coreml.layout import DECODE, PREFILL
from sottovoce.export.coreml.patch_layout import COMPRESS, EXTRACT, PatchLayout
from sottovoce.export.coreml.plan import ENCODER, CorePlan, CoreRequest, load_decoder, plan_coreml
from sottovoce.export.head import ids_of
from sottovoce.export.patch_graph import PatchOptions
from sottovoce.export.quantize import PER_CHANNEL
from sottovoce.export.verify import PARITY
from sottovoce.models.codec import Codec, codec_spec
from sottovoce.models.patch.checkpoint import net_shapes
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import (
    MANIFEST,
    SCHEMA,
    CodecSpec,
    CoremlPatchSpec,
    CoremlSpec,
    HeadSpec,
    Manifest,
    PatchSpec,
    WeightSpec,
)


@dataclass(frozen=True)
class CoreProgress:
    """Where an export tells what it is doing (`stage`) and what verification found (`verified`)."""

    stage: Callable[[str], None] = lambda _: None
    verified: Callable[[CoreParity], None] = lambda _: None


def export_coreml(
    folder: Path,
    target: Path,
    request: CoreRequest,
    *,
    force: bool = False,
    keep_failed: bool = False,
    progress: CoreProgress | None = None,
) -> Manifest:
    """Export the voice in `folder` to the bundle `target` and verify it; returns the manifest written.

    Raises ParityError where a gate fails (no bundle is left then, unless `keep_failed`), OptionError, VoiceError or
    OutputError where it cannot be made.
    """
    progress = progress or CoreProgress()
    check_target(target, force)
    voice = Voice.open(folder, request.decoder_only)
    progress.stage("planning")
    plan = plan_coreml(voice, request)
    with staged_folder(target, force) as stage:
        manifest = _write(voice, plan, request, stage, progress)
        progress.stage(f"verifying, {request.kind.how}, beside torch")
        parity = verify_coreml(stage, voice)
        progress.verified(parity)
        if not parity.passed and not keep_failed:
            raise ParityError(f"{parity.failures[0]}: {target} was not written (--keep-failed keeps it)")
        (stage / PARITY).write_text(json.dumps(asdict(parity), indent=1) + "\n", encoding="utf-8")
        return _write_manifest(stage, replace(manifest, parity="passed" if parity.passed else "failed"))


def _write(voice: Voice, plan: CorePlan, request: CoreRequest, stage: Path, progress: CoreProgress) -> Manifest:
    """Everything but the proof; the manifest calls the bundle failed until verification says otherwise."""
    progress.stage("converting the decoder")
    decoder = load_decoder(voice)
    write_decoder(
        decoder, plan.layout, ids_of(plan.ranges), plan.options.max_position, request.weights, stage, request.kind
    )
    codec = None
    if not request.decoder_only:
        progress.stage("converting the codec; writing text and prompts")
        torch_codec = Codec.load(voice.codec_folder)
        core_codec.write_codec(torch_codec, stage, request.kind)
        states = core_codec.state_specs(torch_codec)
        codec = replace(
            codec_spec(torch_codec), decoder=request.kind.codec, encoder=ENCODER, states=states, weights="fp16"
        )
    for name, graph in plan.codec.items():
        onnx.save(graph, stage / name)
    for name, path in plan.copies.items():
        (stage / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, stage / name)
    return _write_manifest(stage, _manifest(voice, plan, request, codec))


def _manifest(voice: Voice, plan: CorePlan, request: CoreRequest, codec: CodecSpec | None) -> Manifest:
    """The manifest of an export that has not been verified."""
    spec, layout = voice.spec, plan.layout
    block = {"int4": BLOCK, "int8": PER_CHANNEL}.get(request.weights)
    return Manifest(
        schema=SCHEMA,
        files={},
        source=voice.checkpoint.sha256(),
        tools=tool_versions((*TOOLS, request.kind.tool)),
        flavour=request.kind.flavour,
        min_onnxruntime="1.22",
        cache=plan.cache,
        io=layout.io(DECODE),
        weights=WeightSpec(request.weights, request.weights, "fp16", block, block),
        head=HeadSpec(plan.ranges),
        max_position=plan.options.max_position,
        prompt=spec.prompt if spec else None,
        text=spec.text if spec else None,
        sampling=spec.sampling if spec else None,
        codec=codec,
        max_new_tokens=spec.max_new_tokens if spec else None,
        parity="failed",
        warnings=plan.warnings,
        history=spec.history if spec else [],
        decoder=request.kind.decoder,
        patch=_patch_spec(plan, request),
        coreml=CoremlSpec(
            prefill=layout.io(PREFILL),
            prefill_tokens=layout.prefill,
            stateful=layout.stateful,
            rotary=layout.rotary,
            embedding=EMBEDDING,
            positions=POSITIONS,
            codec_values=core_codec.VALUES if codec else None,
            codec_codes=(core_codec.MANY, 1) if codec else (),
            patch=_patch_functions(layout) if isinstance(layout, PatchLayout) else None,
        ),
    )


def _patch_spec(plan: CorePlan, request: CoreRequest) -> PatchSpec | None:
    """What a patch voice's manifest says of it; None for any other voice."""
    if not isinstance(plan.layout, PatchLayout) or not isinstance(plan.options, PatchOptions):
        return None
    patches, width = plan.layout.patches, plan.layout.config.hidden_size
    window = patches.window if patches.compressor == "attention" else None
    speaker = width if patches.speaker == "pooled" else 0
    return PatchSpec(patches.patch, plan.options.clip, window, speaker, token_bytes(plan.layout, request.weights))


def token_bytes(layout: PatchLayout, weights: Compression) -> int:
    """Bytes of weights that each token drawn reads, about: those of `extract`, norms counted as matrices."""
    sizes = {name: math.prod(shape) for name, shape in net_shapes(layout.config, layout.patches).items()}
    parts = (".tokens.", ".q_proj.", ".o_proj.")
    read = sum(n for name, n in sizes.items() if name.startswith("extractor.") and any(part in name for part in parts))
    return int((read + layout.logits * layout.config.hidden_size) * WEIGHT_BYTES[weights])


def _patch_functions(layout: PatchLayout) -> CoremlPatchSpec:
    """How the functions around the backbone are driven."""
    rows = COMPRESS_POSITIONS if layout.patches.compressor == "attention" else None
    return CoremlPatchSpec(layout.io(COMPRESS), layout.io(EXTRACT), START, rows, EXTRACT_POSITIONS)


def _write_manifest(stage: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` with the files that now lie in `stage`, and return it."""
    manifest = replace(manifest, files=file_entries(stage))
    (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
