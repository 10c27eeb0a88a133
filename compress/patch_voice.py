"""A voice → the same voice in patches: checked, taught on a corpus, and written.

Every process runs this; the first one alone writes.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sottovoce.compress.distil import Lesson, distil
from sottovoce.compress.loop import open_accelerator
from sottovoce.compress.patch import PatchObjective, Windows
from sottovoce.compress.recipe import PatchRecipe
from sottovoce.compress.training_state import STATE
from sottovoce.compress.voice_folder import check_free, check_share, check_tokens, history_entry, write_voice
from sottovoce.errors import OptionError, VoiceError
from sottovoce.models.patch.config import Compressing, PatchConfig, Speaker
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.voice import Voice, VoiceSpec


@dataclass(frozen=True)
class PatchRequest:
    """What a user asks for: `voice` in patches of `patch` tokens, learned from `lesson`, written to `output`.

    `student`: what was made of `voice` before and goes on learning; None where nothing is known of patches yet.
    """

    voice: Path
    output: Path
    patch: int
    lesson: Lesson[PatchRecipe]
    speaker: Speaker = "pooled"
    compressor: Compressing = "attention"
    share: bool = False
    student: Path | None = None


def patch_voice(request: PatchRequest) -> None:
    """Write the voice that is asked for.

    Raises OptionError for a patch, recipe or output that cannot be, VoiceError for a voice that cannot be used,
    CorpusError for a corpus with files that cannot, TrainingError where training breaks down, and OutputError where the
    disk refuses.
    """
    check_free(request.output)
    voice = Voice.open(request.voice)
    check_tokens(voice, "patch")
    check_share(voice, request.output, request.share)
    _check_patch(request, voice.complete())
    config = PatchConfig.of(voice.checkpoint.config, request.patch, request.compressor, request.speaker)
    before = _open_student(request.student, voice, config) if request.student else None
    tokens = voice.complete().window
    windows = Windows(patches_seen(tokens, request.patch), tokens)
    accelerator = open_accelerator(request.lesson.recipe.train.precision)
    student, facts = _teach(request.lesson, voice, before, config, windows, accelerator)
    if accelerator.is_main_process:
        _write(voice, student, request, windows, facts)
        (request.lesson.folder / STATE).unlink()
    accelerator.end_training()


def patches_seen(window: int | None, patch: int) -> int | None:
    """Patches that hold a window of tokens, at least the current one and one before it; None stays full attention."""
    return None if window is None else max(2, -(-window // patch))


def _check_patch(request: PatchRequest, spec: VoiceSpec) -> None:
    """Raise OptionError for a patch that is none, or a speaker nobody shows; VoiceError where ids mean two things."""
    prompt = spec.prompt
    if request.patch < 2:
        raise OptionError(f"--patch {request.patch}: at least 2 tokens to a step")
    if request.patch > spec.max_new_tokens:
        raise OptionError(f"--patch {request.patch}: the voice's longest utterance has {spec.max_new_tokens} tokens")
    clips = prompt.layout.count("{prompt_codes}")
    if clips == 0 and request.speaker == "pooled":
        raise OptionError("--speaker pooled: the voice's layout has no {prompt_codes} to pool, take --speaker none")
    codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
    if marks := [item for item in prompt.layout if item in codes]:
        raise VoiceError(f"{request.voice}: token {marks[0]} of prompt.layout is a code too; patches need them apart")
    if clips > 1:
        raise VoiceError(f"{request.voice}: prompt.layout has {clips} {{prompt_codes}}, patches are made of one clip")


def _open_student(folder: Path, voice: Voice, config: PatchConfig) -> Voice:
    """What goes on learning; VoiceError where it was not made of `voice`, OptionError where it is not as `config`."""
    student = Voice.open(folder)
    theirs = student.patches().config
    if _made_by(student).get("source") != voice.checkpoint.sha256():
        raise VoiceError(f"{folder} was not made of {voice.folder}: name the voice that it was made of")
    for field in fields(config):
        mine, asked = getattr(theirs, field.name), getattr(config, field.name)
        if mine != asked:
            raise OptionError(f"--student {folder} has {field.name} {mine}, asked for is {asked}: take its own")
    return student


def _made_by(student: Voice) -> dict[str, Any]:
    """The last entry of a voice's history: how it came about; empty where it does not tell."""
    return (student.complete().history or [{}])[-1]


def _teach(
    lesson: Lesson[PatchRecipe],
    voice: Voice,
    before: Voice | None,
    config: PatchConfig,
    windows: Windows,
    accelerator: Accelerator,
) -> tuple[PatchDecoder, dict[str, Any]]:
    """The trained voice, and what its history says about the training, and of the one `before`."""
    prompt, made = voice.complete().prompt, list[PatchObjective]()
    if before:
        student = before.patches().load()
    else:
        student = PatchDecoder(voice.checkpoint.load(), config, prompt, lesson.recipe.batch.seed)
    teacher = voice.checkpoint.load() if lesson.recipe.loss.kl else None

    def objective(steps: int) -> PatchObjective:
        made.append(PatchObjective(student, prompt, lesson.recipe, windows, teacher))
        return made[-1]

    settings, known = {"window": windows.patches, **asdict(config)}, dict[str, Any]()
    if before:
        known = {"student": {"sha256": before.checkpoint.sha256(), "distilled": _made_by(before).get("distilled")}}
    facts = distil(voice, lesson, objective, settings, known, accelerator)
    return made[-1].merge(), facts


def _write(
    voice: Voice, decoder: PatchDecoder, request: PatchRequest, windows: Windows, distilled: dict[str, Any]
) -> None:
    """Write the voice, its history telling how it came about."""
    before, window = voice.complete(), windows.patches
    facts = {"patch": request.patch, "window": window, "window_tokens": windows.tokens, "distilled": distilled}
    history = history_entry(voice, "patch", **facts)
    spec = replace(before, window=window, patch=decoder.config, history=history)
    write_voice(voice, decoder, spec, request.output, request.share)
