"""A voice: an HF decoder folder that also says how it is prompted, sampled and turned into sound.

`config.json` carries a `sottovoce` section beside HF's keys; weights, codec, text front end and presets lie beside it.
A compressed voice may leave all but its weights with the one it was made of (`base`).
Any HF folder is a voice of `decoder_only` kind.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sottovoce.errors import BundleError, VoiceError
from sottovoce.models.checkpoint import CONFIG, Checkpoint, read_json, save_weights, write_atomic
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.checkpoint import PatchCheckpoint, check_patches, save_patches
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.manifest import Prompt, PromptSpec, SamplingSpec, TextSpec
from sottovoce.runtime.parse import parse

SECTION = "sottovoce"
SCHEMA = 1
_MEND = "or export the decoder alone with --decoder-only"


@dataclass(frozen=True)
class VoiceSpec:
    """The `sottovoce` section of `config.json`.

    `codec` names the codec's folder; `window` is the one the voice was trained for, None where attention is full;
    `max_new_tokens` the longest utterance, in generated tokens; `prefix` the default P; `history` the compressions.
    Where the voice speaks in patches, `patch` says how, and `window` counts them (`max_new_tokens` and `prefix` stay in
    tokens).
    `base` names the folder beside the voice's own that has its codec, text and presets (None: its own has them).
    """

    codec: str
    prompt: PromptSpec
    text: TextSpec
    max_new_tokens: int
    prefix: int
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    window: int | None = None
    base: str | None = None
    patch: PatchConfig | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    schema: Literal[1] = 1

    @property
    def steps(self) -> int:
        """Steps of the longest utterance: its tokens, or its patches."""
        return -(-self.max_new_tokens // (self.patch.patch if self.patch else 1))

    @property
    def slots(self) -> int:
        """Slots of the default prefix: P, or fewer where the clip takes one for each patch."""
        longest = self.prompt.max_prompt_codes
        if self.patch is None or "{prompt_codes}" not in self.prompt.layout or self.prefix <= longest:
            return self.prefix
        return self.prefix - longest + -(-longest // self.patch.patch)

    def reach(self, prefix: int, window: int) -> int:
        """Positions of the longest utterance in P = `prefix` slots and W = `window` steps, as graphs have to know them.

        They count tokens; tables of rotary rows have one for every slot besides.
        """
        return max(prefix + self.prefix - self.slots + self.max_new_tokens, prefix + window)

    @property
    def cached(self) -> int:
        """W of the voice's own window, in steps; one that is full holds the longest utterance and never wraps."""
        return self.window or self.steps + 1


@dataclass(frozen=True)
class Voice:
    """An opened voice folder; `spec` is None for a bare HF folder opened with `decoder_only`."""

    folder: Path
    checkpoint: Checkpoint
    spec: VoiceSpec | None

    @classmethod
    def open(cls, folder: Path, decoder_only: bool = False) -> "Voice":
        """Check the folder without reading weights.

        Raises VoiceError where the checkpoint cannot be used, and, unless `decoder_only`, where codec, prompt layout or
        text front end is missing.
        """
        checkpoint = Checkpoint.open(folder)
        return cls(folder, checkpoint, None if decoder_only else _read_spec(folder, checkpoint))

    @property
    def home(self) -> Path:
        """Where codec, text and presets lie: the voice's folder, or the one beside it that it shares them with."""
        return _home(self.folder, self.complete())

    @property
    def codec_folder(self) -> Path:
        """Where the codec lies."""
        return self.home / self.complete().codec

    @property
    def text_file(self) -> Path:
        """The description of the text front end."""
        return self.home / self.complete().text.file

    def prompts(self) -> dict[str, Prompt]:
        """Preset speakers by name, in order; VoiceError where one is malformed."""
        files = sorted((self.home / "prompts").glob("*.json"))
        return {file.stem: _parse(Prompt, read_json(file), str(file)) for file in files}

    def patches(self) -> PatchCheckpoint:
        """The weights of a voice that speaks in patches; VoiceError where it does not."""
        spec = self.complete()
        if spec.patch is None:
            raise VoiceError(
                f"{self.folder} does not speak in patches: sottovoce compress patch makes a voice that does"
            )
        return PatchCheckpoint(self.checkpoint, spec.patch, spec.prompt)

    def refuse_patches(self, why: str) -> None:
        """Raise VoiceError where the voice speaks in patches: `why` says what cannot be done, and what mends it."""
        section = self.checkpoint.hf.get(SECTION)
        if isinstance(section, dict) and section.get("patch"):
            raise VoiceError(f"{self.folder} speaks in patches: {why}")

    def complete(self) -> VoiceSpec:
        """The spec of a voice that can speak; raises VoiceError for one opened with `decoder_only`."""
        if self.spec is None:
            raise VoiceError(f"{self.folder} was opened as a decoder only: it has no codec and no text")
        return self.spec


def save_voice(decoder: Decoder | PatchDecoder, hf: dict[str, Any], spec: VoiceSpec, folder: Path) -> None:
    """Write `config.json` (HF keys and the spec) and fp16 weights; codec, text and prompts are the caller's.

    Raises OutputError where the disk refuses.
    """
    if isinstance(decoder, PatchDecoder):
        save_patches(decoder, folder)
    save_weights(decoder.backbone if isinstance(decoder, PatchDecoder) else decoder, folder)
    text = json.dumps(hf | {SECTION: asdict(spec)}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def _read_spec(folder: Path, checkpoint: Checkpoint) -> VoiceSpec:
    """The section of a voice that can speak, checked against the decoder and the files beside it."""
    section, where = checkpoint.hf.get(SECTION), f"{folder / CONFIG}: {SECTION}"
    if not isinstance(section, dict):
        raise VoiceError(f"{where} section is missing: add codec, prompt and text, {_MEND}")
    for key in ("codec", "prompt", "text"):
        if not section.get(key):
            raise VoiceError(f"{where}.{key} is missing: add it, {_MEND}")
    schema = section.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise VoiceError(f"{where}.schema {schema} is newer than {SCHEMA}; update sottovoce")
    spec: VoiceSpec = _parse(VoiceSpec, section, where)
    _check_base(folder, spec, where)
    _check_files(_home(folder, spec), spec)
    _check_ids(spec, checkpoint.config.vocab_size, where)
    _check_positions(spec, checkpoint.config, where)
    if spec.patch is not None:
        check_patches(folder, checkpoint.config, spec.patch)
    return spec


def _home(folder: Path, spec: VoiceSpec) -> Path:
    """See `Voice.home`."""
    return folder if spec.base is None else folder.resolve().parent / spec.base


def _check_base(folder: Path, spec: VoiceSpec, where: str) -> None:
    """A base is the plain name of a folder beside this one that exists."""
    if spec.base is None:
        return
    if spec.base in ("", ".", "..") or spec.base != Path(spec.base).name or "\\" in spec.base:
        raise VoiceError(f"{where}.base: {spec.base!r} must be the plain name of a voice folder beside this one")
    if not (home := _home(folder, spec)).is_dir():
        raise VoiceError(f"{home} is missing: {folder} has only weights of its own, put that voice beside it")


def _check_files(folder: Path, spec: VoiceSpec) -> None:
    """The files a spec names must exist inside the folder."""
    for name in (f"{spec.codec}/config.json", f"{spec.codec}/model.safetensors", spec.text.file):
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise VoiceError(f"{folder / CONFIG}: {name!r} is outside the voice folder")
        if not (folder / path).is_file():
            raise VoiceError(f"{folder / path} is missing: add it, {_MEND}")


def _check_ids(spec: VoiceSpec, vocab_size: int, where: str) -> None:
    """Every token id of the prompt layout must be in the vocabulary, and the counts must be positive."""
    prompt = spec.prompt
    ids = [*prompt.stop, prompt.code_offset, prompt.code_offset + prompt.code_count - 1]
    ids += [item for item in prompt.layout if isinstance(item, int)]
    if bad := [i for i in ids if not 0 <= i < vocab_size]:
        raise VoiceError(f"{where}.prompt: token id {bad[0]} is outside the vocabulary of {vocab_size}")
    fields = {"{text}", "{prompt_text}", "{prompt_codes}"}
    if bad_fields := [item for item in prompt.layout if isinstance(item, str) and item not in fields]:
        raise VoiceError(f"{where}.prompt.layout: {bad_fields[0]!r} is not one of {', '.join(sorted(fields))}")
    if min(prompt.code_count, spec.prefix, spec.max_new_tokens) < 1 or (spec.window is not None and spec.window < 2):
        raise VoiceError(f"{where}: code_count, prefix and max_new_tokens must be at least 1, window at least 2")


def _check_positions(spec: VoiceSpec, config: DecoderConfig, where: str) -> None:
    """Learned positions end where their table does; rotated ones go on, at worst with poorer speech."""
    longest = spec.prefix + spec.max_new_tokens
    if config.traits.learned_positions and longest > config.max_position:
        raise VoiceError(
            f"{where}: prefix {spec.prefix} and max_new_tokens {spec.max_new_tokens} pass the {config.max_position} "
            "positions that the checkpoint has learned: lower one of them"
        )


def _parse(kind: Any, value: Any, where: str) -> Any:
    """`parse` of the manifest, with a voice's kind of error."""
    try:
        return parse(kind, value, where)
    except BundleError as error:
        raise VoiceError(str(error)) from None
