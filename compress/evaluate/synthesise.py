"""What is evaluated: a bundle, or a voice as torch runs it, either of them through the runtime's own loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256 as digest_of
from pathlib import Path

import torch

from sottovoce.compress.evaluate.torch_bundle import open_voice
from sottovoce.errors import OptionError, PromptError
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import Bundle, load_bundle, sha256
from sottovoce.runtime.manifest import MANIFEST, Prompt
from sottovoce.runtime.prompt import find_prompt, preset_names, usable_clip
from sottovoce.runtime.session import Floats
from sottovoce.runtime.speak import Stats, speak


@dataclass(frozen=True)
class Subject:
    """An open voice or bundle, and the prompts of the speakers that it is asked for, by name.

    `identity` is a hash of everything that its speech depends on but the text, the prompt and the seed.
    """

    bundle: Bundle
    prompts: Mapping[str, Prompt]
    identity: str

    @property
    def sample_rate(self) -> int:
        """Of what it says, in Hz."""
        return self.bundle.voice.codec.sample_rate

    def say(self, text: str, speaker: str, seed: int) -> tuple[Floats, Stats]:
        """`text` by `speaker`: samples [S] float32, and what making them took."""
        speech = speak(self.bundle, text, self.prompts[speaker], seed=seed)
        return speech.whole(), speech.stats()


def open_subject(folder: Path, speakers: Sequence[str], threads: int) -> Subject:
    """The bundle or the voice in `folder` with `speakers`: presets, or clips of others, called by their file's name.

    Without `speakers` all presets speak. Raises BundleError, VoiceError or PromptError where one cannot be used.
    """
    if (folder / MANIFEST).exists():
        bundle = load_bundle(folder, threads)
        return Subject(bundle, _prompts(bundle, speakers, None), _hash([folder / MANIFEST]))
    voice = Voice.open(folder)
    codec = Codec.load(voice.codec_folder)
    bundle = open_voice(voice, codec)
    files = [*folder.glob("*"), *voice.codec_folder.glob("*")]
    return Subject(bundle, _prompts(bundle, speakers, codec), _hash(files))


def _prompts(bundle: Bundle, speakers: Sequence[str], codec: Codec | None) -> dict[str, Prompt]:
    """Prompts by name; a voice without prompts in its layout has one speaker, whose name is empty."""
    if "{prompt_codes}" not in bundle.voice.prompt.layout:
        return {"": find_prompt(bundle, None)}
    names = preset_names(bundle)
    wanted = {name if name in names else Path(name).stem: name for name in speakers or names}
    if not wanted:
        raise OptionError(f"{bundle.folder} has no prompts of its own: give clips of speakers (--speakers a.wav …)")
    if len(wanted) < len(speakers):
        raise OptionError("--speakers: two of them have the same name, and rows are told apart by it")
    return {name: _prompt(bundle, path, codec) for name, path in wanted.items()}


def _prompt(bundle: Bundle, wanted: str, codec: Codec | None) -> Prompt:
    """The preset or clip `wanted`; a voice encodes a clip with its own `codec`, since it has no graph for that."""
    if wanted in preset_names(bundle) or not Path(wanted).exists():
        return find_prompt(bundle, wanted)
    words = _words(bundle, Path(wanted))
    if codec is None:
        return find_prompt(bundle, wanted, words)
    audio = usable_clip(bundle, Path(wanted))
    whole = torch.from_numpy(audio[: len(audio) - len(audio) % codec.config.hop])
    with torch.inference_mode():
        return Prompt(tuple(codec.encode(whole[None])[0].tolist()), words or "")


def _words(bundle: Bundle, clip: Path) -> str | None:
    """The words of a clip, in a text file beside it; None for a voice that does not ask for them."""
    if "{prompt_text}" not in bundle.voice.prompt.layout:
        return None
    path = clip.with_suffix(".txt")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}, the words of the clip, which this voice needs, cannot be read: {error}") from None


def _hash(files: Sequence[Path]) -> str:
    """Hash of the contents of `files`, by name, 16 hex digits."""
    names = [f"{path.name} {sha256(path)}" for path in sorted(files) if path.is_file()]
    return digest_of("\n".join(names).encode()).hexdigest()[:16]
