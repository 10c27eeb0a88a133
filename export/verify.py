"""A bundle against the voice it came from: decoder and codec, as the runtime would load them, with a report to keep.

The speech cases are real ones: preset speakers, sentences, and the tokens that the runtime says for them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sottovoce.errors import VoiceError
from sottovoce.export.bundle_writer import tool_versions
from sottovoce.export.codec_parity import CodecReport, check_codec
from sottovoce.export.decoder import DecoderParts
from sottovoce.export.heard import SENTENCES, speakers
from sottovoce.export.parity import Case, ParityReport, check_decoder, random_cases
from sottovoce.export.patch_parity import DrawnReport, PatchSides, check_patches, patch_cases
from sottovoce.export.written_parity import WrittenReport, check_written
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import Bundle, load_bundle
from sottovoce.runtime.manifest import Manifest, Prompt, WeightFormat
from sottovoce.runtime.parse import parse
from sottovoce.runtime.prefix import build_prefix, text_room
from sottovoce.runtime.prompt import find_prompt, preset_names
from sottovoce.runtime.speak import speak
from sottovoce.runtime.strict_json import read_json

PARITY = "parity.json"
"""Name of the report inside a bundle."""

UNTRAINED_STEPS = 64
"""Steps where figures are told but hardly gate: quantized weights of which no speech is known."""


@dataclass(frozen=True)
class BundleParity:
    """`parity.json`: the decoder against the checkpoint; where it is quantized, against its own weights as well; the
    codec of a bundle that speaks; the tools used; and what the graph of a patch voice draws by itself.
    """

    schema: int
    passed: bool
    weights: WeightFormat
    decoder: ParityReport
    written: WrittenReport | None
    codec: CodecReport | None
    threads: int
    tools: dict[str, str]
    drawn: DrawnReport | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """One line per missed gate."""
        parts = (self.decoder, self.written, self.codec, self.drawn)
        return tuple(line for part in parts if part for line in part.failures)

    def to_json(self) -> str:
        """The text of `parity.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_parity(bundle: Path) -> BundleParity:
    """The report that export left in a bundle; BundleError where there is none or it is malformed."""
    path = bundle / PARITY
    parity: BundleParity = parse(BundleParity, read_json(path), str(path))
    return parity


def verify_bundle(folder: Path, voice: Voice, threads: int = 1) -> BundleParity:
    """Load the bundle as a user would and compare its graphs with the torch voice.

    Raises VoiceError where `voice` is not the checkpoint that the bundle was made from.
    """
    bundle = load_bundle(folder, threads)
    manifest = bundle.manifest
    if manifest.source != voice.checkpoint.sha256():
        raise VoiceError(f"{voice.folder} is not the voice that {folder} was exported from: their hashes differ")
    parts, speech = DecoderParts.of(manifest), speech_cases(bundle) if bundle.speaking else []
    del bundle  # its weights need not lie in memory beside torch's
    if manifest.patch is None:
        decoder, written, drawn = _check_tokens(voice, folder, parts, speech, threads)
    else:
        decoder, written, drawn = _check_patches(voice, folder, manifest, speech, threads)
    codec = None
    if manifest.codec is not None:
        sequences = [prompt.codes for prompt in voice.prompts().values()]
        codec = check_codec(Codec.load(voice.codec_folder), folder, manifest.codec, sequences, threads)
    found = BundleParity(1, True, manifest.weights.layers, decoder, written, codec, threads, tool_versions(), drawn)
    return replace(found, passed=not found.failures)


Checked = tuple[ParityReport, WrittenReport | None, DrawnReport | None]


def _check_tokens(voice: Voice, folder: Path, parts: DecoderParts, speech: list[Case], threads: int) -> Checked:
    """The decoder of a plain voice, or of a bare checkpoint, which has no `speech`."""
    cases = _cases(parts, speech)
    decoder = check_decoder(voice.checkpoint, folder, parts, cases, trained=bool(speech), threads=threads)
    rounded = parts.weights.formats != {"fp32"} or parts.cache.groups[0].dtype == "int8"
    written = check_written(voice.checkpoint, folder, parts, threads=threads) if rounded else None
    return decoder, written, None


def _cases(parts: DecoderParts, speech: list[Case]) -> list[Case]:
    """Random prefixes for the cache contract, which fp32 must meet exactly; speech, which judges quantized weights."""
    random = random_cases(parts) if parts.weights.formats == {"fp32"} else []
    if not speech:
        return random or random_cases(parts, max_steps=UNTRAINED_STEPS)[:1]
    return [*random, *speech]


def _check_patches(voice: Voice, folder: Path, manifest: Manifest, speech: list[Case], threads: int) -> Checked:
    """The decoder of a patch voice: the same two, and what it draws."""
    prompt, sampling, parts = manifest.prompt, manifest.sampling, DecoderParts.of(manifest)
    assert prompt is not None and sampling is not None
    sides, patches = PatchSides(folder, parts, prompt, threads), voice.patches()
    random = patch_cases(parts, prompt, voice.checkpoint.config.vocab_size)
    quantized = parts.weights.formats != {"fp32"}
    decoder, drawn = check_patches(patches, sides, speech if quantized else [*random, *speech], sampling)
    written = check_written(patches, folder, parts, random, sides=sides) if quantized else None
    return decoder, written, drawn


def speech_cases(bundle: Bundle) -> list[Case]:
    """For each preset speaker: SENTENCES, and the tokens that the runtime says for them."""
    presets = {name: find_prompt(bundle, name) for name in preset_names(bundle)}
    found = speakers(presets, bundle.voice.prompt, bundle.manifest.cache.groups[0].prefix)
    return [case for name, prompt in found.items() for case in _spoken(bundle, name, prompt)]


def _spoken(bundle: Bundle, name: str, prompt: Prompt) -> Iterator[Case]:
    """SENTENCES as the runtime speaks them with the voice's own sampling, the stop id after each."""
    spec, room = bundle.voice.prompt, text_room(bundle, prompt)
    speech = speak(bundle, SENTENCES, prompt)
    speech.whole()
    sentences = bundle.voice.frontend.sentences(SENTENCES, room)
    for number, (sentence, said) in enumerate(zip(sentences, speech.stats().sentences, strict=True), 1):
        prefix = build_prefix(bundle, sentence.ids, prompt)
        tokens = (*(spec.code_offset + code for code in said.codes), spec.stop[0])
        tokens = tokens[: _room(bundle, prefix)]
        yield Case(f"{name}: sentence {number}", prefix, tokens, len(tokens))


def _room(bundle: Bundle, prefix: Sequence[int]) -> int:
    """Tokens that can follow `prefix` before positions end."""
    return bundle.manifest.max_position - len(prefix)
