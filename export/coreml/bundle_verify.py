"""A Core ML or Core AI bundle against the voice it came from; the report says what ran it: we, or Apple."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sottovoce.errors import BundleError, VoiceError
from sottovoce.export.bundle_writer import TOOLS, tool_versions
from sottovoce.export.coreml.codec_verify import CoreCodecReport, check_codec
from sottovoce.export.coreml.drive import CoreDriver, Engine
from sottovoce.export.coreml.interpreted import Interpreted
from sottovoce.export.coreml.kinds import COREML, KINDS, Driven, Kind
from sottovoce.export.coreml.layout import Layout
from sottovoce.export.coreml.patch_drive import CorePatchDriver
from sottovoce.export.coreml.patch_layout import PatchLayout
from sottovoce.export.coreml.patch_verify import full_prefix, patch_cases, patch_reference
from sottovoce.export.coreml.plan import load_decoder
from sottovoce.export.coreml.verify import CoreReport, check_decoder, reference, report
from sottovoce.export.head import ids_of
from sottovoce.export.heard import SENTENCES
from sottovoce.export.mil.lint import lint
from sottovoce.export.mil.package import load_package
from sottovoce.export.parity import WRAPS, Case
from sottovoce.models.codec import Codec
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import Manifest, WeightFormat, read_manifest
from sottovoce.runtime.parse import parse
from sottovoce.runtime.prefix import fill_layout, prefix_slots
from sottovoce.runtime.strict_json import read_json
from sottovoce.runtime.text.frontend import load_frontend

WORK = 1e11
"""Bytes of weights that all steps of the longest case may read together: some minutes' work for the interpreter."""

GREEDY_STEPS = 48
MIN_CODES = 100


@dataclass(frozen=True)
class CoreParity:
    """`parity.json` of such a bundle. `engine`: `interpreted`, `run by Core AI`, or `on Apple hardware` and the units.

    `decoder` holds a report per engine, the one that runs anywhere first; `placement` maps a compute unit to devices
    and the ops that Core ML would place on each (empty where it was not asked); `lint` holds the findings on both
    packages (Core ML alone).
    """

    schema: int
    passed: bool
    engine: tuple[str, ...]
    weights: WeightFormat
    placement: dict[str, dict[str, int]]
    decoder: tuple[CoreReport, ...]
    codec: CoreCodecReport | None
    lint: tuple[str, ...]
    tools: dict[str, str]
    kind: Literal["coreml"] = "coreml"

    @property
    def failures(self) -> tuple[str, ...]:
        """One line per missed gate, with the engine."""
        lines = [f"{e}: {line}" for e, r in zip(self.engine, self.decoder, strict=True) for line in r.failures]
        return (*lines, *(self.codec.failures if self.codec else ()))


def read_core_parity(path: Path) -> CoreParity:
    """The report in the file `path`; BundleError where it is malformed."""
    parity: CoreParity = parse(CoreParity, read_json(path), str(path))
    return parity


def verify_coreml(folder: Path, voice: Voice) -> CoreParity:
    """Run what lies in `folder` here and, packages on macOS, by Apple; compare with the torch voice.

    Raises VoiceError where `voice` is not the checkpoint that the bundle was made from.
    """
    manifest = read_manifest(folder)
    if manifest.source != voice.checkpoint.sha256():
        raise VoiceError(f"{voice.folder} is not the voice that {folder} was exported from: their hashes differ")
    decoder = load_decoder(voice)
    ids = ids_of(manifest.head.ids)
    with torch.no_grad():
        backbone = decoder.backbone if isinstance(decoder, PatchDecoder) else decoder
        head = backbone.head[torch.tensor(ids)].clone()
    kind = _kind(manifest)
    written = kind.written(folder / kind.decoder, decoder, head)
    layout, group = layout_of(manifest, voice), manifest.cache.groups[0]
    cases, names, reports = _cases(folder, manifest, voice), [], []
    refer = reference if manifest.patch is None else patch_reference
    for name, engine in engines(kind, folder / kind.decoder, layout):
        driver = open_driver(folder, layout, manifest, engine)
        outcomes = check_decoder(driver, decoder, head, written, cases, ids, refer)
        names.append(name)
        slot = manifest.patch.size if manifest.patch else 1
        window = group.window * slot  # in tokens
        reports.append(report(outcomes, written, manifest.weights.layers, window, voice.spec is not None))
    found = CoreParity(
        schema=1,
        passed=True,
        engine=tuple(names),
        weights=manifest.weights.layers,
        placement=placements(folder / kind.decoder) if kind is COREML else {},
        decoder=tuple(reports),
        codec=_codec(folder, manifest, voice),
        lint=tuple(_lint(folder, manifest)),
        tools=tool_versions((*TOOLS, kind.tool)),
    )
    return replace(found, passed=not found.failures)


def _kind(manifest: Manifest) -> Kind:
    """Which of Apple's runtimes reads the bundle; BundleError for another flavour."""
    if (kind := KINDS.get(manifest.flavour)) is None:
        raise BundleError(f"this bundle is of flavour {manifest.flavour}, not {' or '.join(KINDS)}")
    return kind


def open_driver(folder: Path, layout: Layout, manifest: Manifest, engine: Engine | None = None) -> CoreDriver:
    """What drives the package of a bundle, by `engine` (None: the interpreter)."""
    group = manifest.cache.groups[0]
    if not isinstance(layout, PatchLayout):
        return CoreDriver(folder, layout, group.prefix, group.window, engine)
    assert manifest.prompt is not None
    codes = range(manifest.prompt.code_offset, manifest.prompt.code_offset + manifest.prompt.code_count)
    return CorePatchDriver(folder, layout, group.prefix, group.window, codes, engine)


def engines(kind: Kind, package: Path, layout: Layout) -> Iterator[tuple[str, Engine]]:
    """What runs it here; for a Core ML package on macOS also Core ML on each kind of compute unit."""
    if kind is not COREML:
        yield kind.how, Driven(kind, package, layout.functions)
        return
    yield kind.how, Interpreted(package)
    if platform.system() == "Darwin":
        from sottovoce.export.coreml.apple import UNITS, OnApple

        for unit in UNITS:
            yield f"on Apple hardware, {unit}", OnApple(package, unit, layout)


def placements(package: Path) -> dict[str, dict[str, int]]:
    """Devices and ops by compute unit, on macOS; nothing elsewhere."""
    if platform.system() != "Darwin":
        return {}
    from sottovoce.export.coreml.apple import UNITS, placement

    return {unit: placement(package, unit) for unit in UNITS}


def layout_of(manifest: Manifest, voice: Voice) -> Layout:
    """Sizes of a bundle's decoder; BundleError for one of another flavour."""
    spec = manifest.coreml
    if spec is None:
        raise BundleError(f"this bundle is of flavour {manifest.flavour}: its manifest lacks coreml")
    logits = sum(end - start for start, end in manifest.head.ids)
    sizes = voice.checkpoint.config, manifest.cache.groups[0].slots, logits, spec.prefill_tokens, spec.stateful
    return Layout(*sizes) if manifest.patch is None else PatchLayout(*sizes, voice.patches().config)


def _cases(folder: Path, manifest: Manifest, voice: Voice) -> list[Case]:
    """Tokens fed to both over WRAPS rounds of the ring; a full prefix; and the package's own choice after a real one.

    What is fed are the codes of a voice's presets, again and again; random tokens where it has none.
    """
    group, random = manifest.cache.groups[0], np.random.default_rng(0)
    ids = np.array(ids_of(manifest.head.ids))
    spec = voice.spec
    said = [spec.prompt.code_offset + code for p in voice.prompts().values() for code in p.codes] if spec else []
    steps = _steps(manifest)
    if manifest.patch is not None:
        return _patch_cases(folder, manifest, voice, said, steps)
    said = said or random.choice(ids, 64).tolist()
    many = said * (1 + (steps + group.prefix) // len(said))
    short = many[: min(group.prefix, 37)]
    real = _real_prefix(folder, manifest, voice) or tuple(short[:1])
    return [
        Case(f"prefix {len(short)}", tuple(short), tuple(many[len(short) :][:steps])),
        Case(f"prefix {group.prefix}", tuple(many[: group.prefix]), tuple(many[:8])),
        Case(f"prefix {len(real)}, greedy", real, None, min(GREEDY_STEPS, steps)),
    ]


def _patch_cases(folder: Path, manifest: Manifest, voice: Voice, said: list[int], steps: int) -> list[Case]:
    """The same of a patch voice; what is fed are codes, for stops and text make no patches."""
    patch, prompt, random = manifest.patch, manifest.prompt, np.random.default_rng(0)
    assert patch is not None
    assert prompt is not None
    said = said or (prompt.code_offset + random.integers(0, prompt.code_count, 64)).tolist()
    text = np.setdiff1d(np.arange(voice.checkpoint.config.vocab_size), ids_of(manifest.head.ids))
    words, clip, slots = random.permutation(text).tolist(), said[: patch.clip], manifest.cache.groups[0].prefix
    real = _real_prefix(folder, manifest, voice) or full_prefix(words, clip, min(9, slots), patch.size)
    full = full_prefix(words, clip, slots, patch.size)
    return patch_cases(real, full, said, steps, GREEDY_STEPS, patch.size)


def _steps(manifest: Manifest) -> int:
    """Steps of the longest case: WRAPS rounds and a bit, where positions and WORK allow it."""
    group = manifest.cache.groups[0]
    weights = sum(entry.size for name, entry in manifest.files.items() if name.startswith(f"{manifest.decoder}/"))
    weights += (manifest.patch.size - 1) * manifest.patch.token_bytes if manifest.patch else 0
    affordable = max(GREEDY_STEPS, int(WORK / weights))
    size = manifest.patch.size if manifest.patch else 1
    room = (manifest.max_position - group.prefix - (manifest.patch.clip if manifest.patch else 0)) // size
    return max(2, min(WRAPS * group.window + 2, room, affordable))


def _real_prefix(folder: Path, manifest: Manifest, voice: Voice) -> tuple[int, ...]:
    """What `say` would feed for a sentence by the first speaker; () for a decoder alone or a voice without speakers."""
    prompts = list(voice.prompts().values()) if voice.spec else []
    if manifest.text is None or manifest.prompt is None or not prompts:
        return ()
    frontend, layout = load_frontend(folder, manifest.text), manifest.prompt
    words = frontend.whole(prompts[0].transcript).ids if "{prompt_text}" in layout.layout else ()
    fixed = prefix_slots(manifest, fill_layout(layout, (), prompts[0].codes, words))
    room = manifest.cache.groups[0].prefix - fixed
    sentence = frontend.sentences(SENTENCES, min(room, layout.max_text_tokens))[0]
    return fill_layout(layout, sentence.ids, prompts[0].codes, words)


def _codec(folder: Path, manifest: Manifest, voice: Voice) -> CoreCodecReport | None:
    """The codec over the presets, or random codes; None for a decoder alone."""
    if manifest.codec is None or manifest.coreml is None:
        return None
    codec = Codec.load(voice.codec_folder)
    codes = [code for prompt in voice.prompts().values() for code in prompt.codes]
    missing = max(0, MIN_CODES - len(codes))
    codes += np.random.default_rng(0).integers(0, codec.codebook_size, missing).tolist()
    return check_codec(codec, folder, _kind(manifest), manifest.coreml.codec_codes, codes)


def _lint(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Findings of the lint on every package; it knows nothing of Core AI's assets."""
    if manifest.flavour != COREML.flavour:
        return
    names = [manifest.decoder, *([manifest.codec.decoder] if manifest.codec else [])]
    for name in names:
        yield from (f"{name}: {finding}" for finding in lint(load_package(folder / name)))
