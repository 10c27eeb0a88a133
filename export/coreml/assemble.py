"""Voice → Core ML or Core AI bundle: packages, tables, text, prompts, manifest and proof, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from sottovoce.errors import ParityError
from sottovoce.export.bundle_writer import TOOLS, check_target, file_entries, staged_folder, tool_versions
from sottovoce.export.coreml import codec as core_codec
from sottovoce.export.coreml.bundle_verify import CoreParity, verify_coreml
from sottovoce.export.coreml.convert import BLOCK
from sottovoce.export.coreml.decoder import EMBEDDING, POSITIONS, write_decoder
from sottovoce.export.coreml.layout import DECODE, PREFILL
from sottovoce.export.coreml.plan import ENCODER, CorePlan, CoreRequest, plan_coreml
from sottovoce.export.head import ids_of
from sottovoce.export.verify import PARITY
from sottovoce.models.codec import Codec, codec_spec
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import MANIFEST, SCHEMA, CodecSpec, CoremlSpec, HeadSpec, Manifest, WeightSpec


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
    decoder = voice.checkpoint.load()
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
    block = BLOCK if request.weights == "int4" else None
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
        coreml=CoremlSpec(
            prefill=layout.io(PREFILL),
            prefill_tokens=layout.prefill,
            stateful=layout.stateful,
            rotary=layout.rotary,
            embedding=EMBEDDING,
            positions=POSITIONS,
            codec_values=core_codec.VALUES if codec else None,
            codec_codes=(core_codec.MANY, 1) if codec else (),
        ),
    )


def _write_manifest(stage: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` with the files that now lie in `stage`, and return it."""
    manifest = replace(manifest, files=file_entries(stage))
    (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
