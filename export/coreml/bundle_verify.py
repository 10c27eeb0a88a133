"""A Core ML bundle against the voice it came from; the report says whether that was interpreted or run by Apple."""

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
from sottovoce.export.coreml.decoder import PACKAGE
from sottovoce.export.coreml.drive import CoreDriver, Engine
from sottovoce.export.coreml.interpreted import Interpreted
from sottovoce.export.coreml.layout import Layout
from sottovoce.export.coreml.verify import CoreReport, check_decoder, report
from sottovoce.export.coreml.written import load_written
from sottovoce.export.head import ids_of
from sottovoce.export.mil.lint import lint
from sottovoce.export.mil.package import load_package
from sottovoce.export.parity import WRAPS, Case
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import Manifest, WeightFormat, parse, read_manifest
from sottovoce.runtime.strict_json import read_json

LONGEST = 300
"""Steps of the longest case: the interpreter takes about a tenth of a second for each of a small voice."""

GREEDY_STEPS = 48
MIN_CODES = 100


@dataclass(frozen=True)
class CoreParity:
    """`parity.json` of a Core ML bundle. `engine`: `interpreted`, or `on Apple hardware` and the compute units.

    `decoder` holds a report per engine, the interpreter's first; `placement` maps a compute unit to devices and the
    ops that Core ML would place on each (empty where it was not asked); `lint` holds the findings on both packages.
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
    """Interpret the packages in `folder` and, on macOS, run them; compare with the torch voice.

    Raises VoiceError where `voice` is not the checkpoint that the bundle was made from.
    """
    manifest = read_manifest(folder)
    if manifest.source != voice.checkpoint.sha256():
        raise VoiceError(f"{voice.folder} is not the voice that {folder} was exported from: their hashes differ")
    decoder = voice.checkpoint.load()
    ids = ids_of(manifest.head.ids)
    with torch.no_grad():
        head = decoder.head[torch.tensor(ids)].clone()
    written = load_written(load_package(folder / PACKAGE), decoder, head)
    layout, group = layout_of(manifest, voice), manifest.cache.groups[0]
    cases, names, reports = _cases(manifest, voice), [], []
    for name, engine in engines(folder / PACKAGE, layout.stateful):
        driver = CoreDriver(folder, layout, group.prefix, group.window, engine)
        outcomes = check_decoder(driver, decoder, head, written, cases, ids)
        names.append(name)
        reports.append(report(outcomes, written, manifest.weights.layers, group.window, voice.spec is not None))
    found = CoreParity(
        schema=1,
        passed=True,
        engine=tuple(names),
        weights=manifest.weights.layers,
        placement=placements(folder / PACKAGE),
        decoder=tuple(reports),
        codec=_codec(folder, manifest, voice),
        lint=tuple(_lint(folder, manifest)),
        tools=tool_versions((*TOOLS, "coremltools")),
    )
    return replace(found, passed=not found.failures)


def engines(package: Path, stateful: bool) -> Iterator[tuple[str, Engine]]:
    """The interpreter and, on macOS, Core ML on each kind of compute unit."""
    yield "interpreted", Interpreted(package)
    if platform.system() == "Darwin":
        from sottovoce.export.coreml.apple import UNITS, OnApple

        for unit in UNITS:
            yield f"on Apple hardware, {unit}", OnApple(package, unit, stateful)


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
        raise BundleError(f"this bundle is of flavour {manifest.flavour}, not coreml")
    logits = sum(end - start for start, end in manifest.head.ids)
    return Layout(voice.checkpoint.config, manifest.cache.groups[0].slots, logits, spec.prefill_tokens, spec.stateful)


def _cases(manifest: Manifest, voice: Voice) -> list[Case]:
    """Tokens fed to both over WRAPS rounds of the ring, and the package's own greedy choice.

    A voice's presets are what is fed where there are any: tokens of real speech, again and again. Else random ones.
    """
    group, random = manifest.cache.groups[0], np.random.default_rng(0)
    heard = [list(prompt.codes) for prompt in voice.prompts().values()] if voice.spec else []
    ids = np.array(ids_of(manifest.head.ids))
    offset = voice.spec.prompt.code_offset if voice.spec else 0
    longest = manifest.max_position - group.prefix
    steps = (
        min(WRAPS * group.window + 2, longest) if WRAPS * group.window + 2 <= LONGEST else min(LONGEST // 4, longest)
    )
    speech = [offset + code for codes in heard for code in codes] or random.choice(ids, 64).tolist()
    many = speech * (1 + (steps + group.prefix) // len(speech))
    full = random.choice(ids, group.prefix).tolist() if not heard else many[: group.prefix]
    short = many[: min(group.prefix, 37)]
    return [
        Case(f"prefix {len(short)}", tuple(short), tuple(many[len(short) :][:steps])),
        Case(f"prefix {group.prefix}", tuple(full), tuple(many[:8])),
        Case("prefix 1, greedy", tuple(short[:1]), None, min(GREEDY_STEPS, steps)),
    ]


def _codec(folder: Path, manifest: Manifest, voice: Voice) -> CoreCodecReport | None:
    """The codec over the presets, or random codes; None for a decoder alone."""
    if manifest.codec is None or manifest.coreml is None:
        return None
    codec = Codec.load(voice.codec_folder)
    codes = [code for prompt in voice.prompts().values() for code in prompt.codes]
    missing = max(0, MIN_CODES - len(codes))
    codes += np.random.default_rng(0).integers(0, codec.codebook_size, missing).tolist()
    return check_codec(codec, folder, manifest.coreml.codec_codes, codes)


def _lint(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Findings of the lint on every package."""
    names = [manifest.decoder, *([manifest.codec.decoder] if manifest.codec else [])]
    for name in names:
        yield from (f"{name}: {finding}" for finding in lint(load_package(folder / name)))
