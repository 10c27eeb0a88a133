"""Voice → bundle: decoder, codec, text, prompts, manifest and proof, in one folder that appears whole or not at all."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from sottovoce.errors import ParityError
from sottovoce.export.bundle_writer import check_space, check_target, file_entries, staged_folder, tool_versions
from sottovoce.export.codec_weights import MIN_ONNXRUNTIME
from sottovoce.export.decoder import DecoderOptions, DecoderParts, export_decoder
from sottovoce.export.own_speech import own_speech
from sottovoce.export.patch_graph import PatchOptions, export_patches
from sottovoce.export.plan import Plan, Request, plan_export
from sottovoce.export.verify import PARITY, BundleParity, verify_bundle
from sottovoce.export.weight_recipe import recipe_of
from sottovoce.models.codec import Codec, codec_spec
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import MANIFEST, SCHEMA, CodecSpec, Manifest

MARGIN = 1_000_000
"""Bytes of disk asked for beyond the files of a plan: manifest, report, folder entries."""


@dataclass(frozen=True)
class Progress:
    """Where an export tells what it is doing (`stage`) and what verification found (`verified`)."""

    stage: Callable[[str], None] = lambda _: None
    verified: Callable[[BundleParity], None] = lambda _: None


def export_bundle(
    folder: Path,
    target: Path,
    request: Request,
    *,
    force: bool = False,
    keep_failed: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Export the voice in `folder` to the bundle `target` and verify it; returns the manifest written.

    Raises ParityError where a gate fails (no bundle is left then, unless `keep_failed`), OptionError, VoiceError or
    OutputError where it cannot be made.
    """
    progress = progress or Progress()
    check_target(target, force)
    voice = Voice.open(folder, request.decoder_only)
    progress.stage("planning")
    plan = plan_export(voice, request)
    check_space(target, sum(plan.sizes.values()) + MARGIN)
    with staged_folder(target, force) as stage:
        manifest = _write(voice, plan, stage, progress)
        progress.stage("verifying against torch")
        parity = verify_bundle(stage, voice, threads)
        progress.verified(parity)
        if not parity.passed and not keep_failed:
            raise ParityError(f"{parity.failures[0]}: {target} was not written (--keep-failed keeps it)")
        (stage / PARITY).write_text(parity.to_json(), encoding="utf-8")
        return _write_manifest(stage, replace(manifest, parity="passed" if parity.passed else "failed"))


def _write(voice: Voice, plan: Plan, stage: Path, progress: Progress) -> Manifest:
    """Everything but the proof; the manifest calls the bundle failed until verification says otherwise."""
    options = _calibrated(voice, plan.options, progress)
    progress.stage("writing the decoder")
    parts = _write_decoder(voice, options, stage)
    progress.stage("writing codec, text and prompts")
    for name, graph in plan.codec.items():
        onnx.save(graph, stage / name)
    for name, path in plan.copies.items():
        (stage / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, stage / name)
    codec = replace(codec_spec(Codec.load(voice.codec_folder)), weights=plan.codec_weights) if plan.codec else None
    return _write_manifest(stage, _manifest(voice, plan, parts, codec))


def _calibrated(
    voice: Voice, options: DecoderOptions | PatchOptions, progress: Progress
) -> DecoderOptions | PatchOptions:
    """With what the voice says, where the weights are rounded for it."""
    if isinstance(options, PatchOptions) or not recipe_of(options.weights).calibrate:
        return options
    progress.stage("listening to the voice")
    return replace(options, speech=own_speech(voice, voice.checkpoint.load(), options.window))


def _write_decoder(voice: Voice, options: DecoderOptions | PatchOptions, stage: Path) -> DecoderParts:
    """The decoder's files, of a plain voice or of one that speaks in patches."""
    if isinstance(options, PatchOptions):
        return export_patches(voice.patches(), voice.complete().prompt, options, stage)
    return export_decoder(voice.checkpoint, options, stage)


def _manifest(voice: Voice, plan: Plan, parts: DecoderParts, codec: CodecSpec | None) -> Manifest:
    """The manifest of an export that has not been verified; `files` is filled in when it is written."""
    spec = voice.spec
    return Manifest(
        schema=SCHEMA,
        files={},
        source=voice.checkpoint.sha256(),
        tools=tool_versions(),
        flavour=parts.flavour,
        min_onnxruntime=_newest(parts.min_onnxruntime, codec),
        cache=parts.cache,
        io=parts.io,
        weights=parts.weights,
        head=parts.head,
        max_position=parts.max_position,
        decoder=parts.decoder,
        prefill=parts.prefill,
        prompt=spec.prompt if spec else None,
        text=spec.text if spec else None,
        sampling=spec.sampling if spec else None,
        codec=codec,
        max_new_tokens=spec.max_new_tokens if spec else None,
        patch=parts.patch,
        parity="failed",
        warnings=plan.warnings,
        history=spec.history if spec else [],
    )


def _newest(decoder: str, codec: CodecSpec | None) -> str:
    """The ONNX Runtime that both decoder and codec need."""
    needed = [decoder, *([MIN_ONNXRUNTIME] if codec and codec.weights == "int8" else [])]
    return max(needed, key=lambda version: [int(part) for part in version.split(".")])


def _write_manifest(stage: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` with the files that now lie in `stage`, and return it."""
    manifest = replace(manifest, files=file_entries(stage))
    (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
