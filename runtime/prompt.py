"""The speaker prompt: presets kept in the bundle, and clips turned into codes.

`prompts/NAME.json` is `{"codes": […], "transcript": "", "licence": "", "consent": ""}`. Presets that came with the
bundle are in the manifest's `files` and hashed; those a user saves are not, so they are checked whenever they are read.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sottovoce.errors import BundleError, OptionError, PromptError
from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.clip import levelled, read_clip
from sottovoce.runtime.codec import encode
from sottovoce.runtime.manifest import Prompt
from sottovoce.runtime.output import written_whole
from sottovoce.runtime.parse import parse
from sottovoce.runtime.paths import inside
from sottovoce.runtime.session import Floats
from sottovoce.runtime.strict_json import read_json

FOLDER: Final = "prompts"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def preset_names(bundle: Bundle) -> list[str]:
    """Names of the prompts kept in the bundle, sorted."""
    return sorted(path.stem for path in (bundle.folder / FOLDER).glob("*.json") if NAME.fullmatch(path.stem))


def find_prompt(bundle: Bundle, wanted: str | None, transcript: str | None = None) -> Prompt:
    """The preset called `wanted`, else the clip at that path; None is the voice's default preset, else its first.

    `transcript` (None: the preset's own) says what the clip's words are. Raises PromptError where there is no such
    prompt or it cannot be used, OptionError for words that the voice does not use.
    """
    check_transcript(bundle, transcript)
    names = preset_names(bundle)
    if wanted is None:
        if "{prompt_codes}" not in bundle.voice.prompt.layout:
            return Prompt(transcript=transcript or "")
        if not names:
            raise PromptError(
                f"{bundle.folder} has no prompts of its own: give a clip of the speaker (--prompt ref.wav)"
            )
        wanted = default if (default := bundle.voice.prompt.default) in names else names[0]
    if wanted not in names and not Path(wanted).exists():
        raise PromptError(f"{wanted!r} is neither a file nor a prompt of this bundle ({', '.join(names) or 'none'})")
    prompt = load_preset(bundle, wanted) if wanted in names else Prompt(encode_clip(bundle, Path(wanted)))
    return prompt if transcript is None else Prompt(prompt.codes, transcript, prompt.licence, prompt.consent)


def check_transcript(bundle: Bundle, transcript: str | None) -> None:
    """Raise OptionError where a clip's words are given and the voice's layout has no place for them."""
    if transcript is not None and "{prompt_text}" not in bundle.voice.prompt.layout:
        raise OptionError("this voice does not use the words of a prompt: leave --prompt-text out")


def encode_clip(bundle: Bundle, path: Path) -> tuple[int, ...]:
    """Codes of the audio file at `path`; raises PromptError where it is no usable clip."""
    return encode(bundle, usable_clip(bundle, path))[: bundle.voice.prompt.max_prompt_codes]


def usable_clip(bundle: Bundle, path: Path) -> Floats:
    """The audio file at `path` as the voice's codec wants it: [S] float32 at its rate and level, S at least its hop.

    Raises PromptError where it is no usable clip.
    """
    codec, spec = bundle.voice.codec, bundle.voice.prompt
    audio = read_clip(path, codec.sample_rate, spec.max_prompt_codes * codec.hop)
    if len(audio) < codec.hop:
        raise PromptError(
            f"{path} lasts {len(audio) / codec.sample_rate:.3f} s: a prompt needs clear speech, "
            f"up to {spec.max_prompt_codes * codec.hop / codec.sample_rate:.2f} s of it"
        )
    return levelled(audio, codec.level)


def load_preset(bundle: Bundle, name: str) -> Prompt:
    """`prompts/NAME.json` of the bundle; raises BundleError where it is malformed or has codes the voice lacks."""
    path = inside(bundle.folder, f"{FOLDER}/{name}.json")
    prompt: Prompt = parse(Prompt, read_json(path), str(path))
    spec = bundle.voice.prompt
    if not 0 < len(prompt.codes) <= spec.max_prompt_codes:
        raise BundleError(f"{path}: {len(prompt.codes)} codes, between 1 and {spec.max_prompt_codes} are allowed")
    if not 0 <= min(prompt.codes) <= max(prompt.codes) < spec.code_count:
        raise BundleError(f"{path}: codes must lie between 0 and {spec.code_count - 1}")
    return prompt


def save_preset(bundle: Bundle, name: str, prompt: Prompt, force: bool = False) -> Path:
    """Write `prompt` to `prompts/NAME.json`, whole or not at all; the manifest is left as it is.

    Raises OptionError for a name that is not plain, is taken (unless `force`), or came with the bundle.
    """
    if not NAME.fullmatch(name):
        raise OptionError(f"prompt name {name!r}: letters, digits, - and _ only, at most 64")
    path = inside(bundle.folder, f"{FOLDER}/{name}.json")
    if f"{FOLDER}/{name}.json" in bundle.manifest.files:
        raise OptionError(f"prompt {name!r} came with the bundle: choose another name")
    if path.exists() and not force:
        raise OptionError(f"{path} exists: choose another name, or --force to replace it")
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as file:
        file.write((json.dumps(asdict(prompt), ensure_ascii=False) + "\n").encode())
    return path
