"""A voice → the same voice under a window: checked, distilled where a corpus is given, and written.

Every process of a distillation runs this; the first one alone writes.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sottovoce.compress.distil import Lesson, distil
from sottovoce.compress.loop import open_accelerator
from sottovoce.compress.recipe import WindowRecipe
from sottovoce.compress.training_state import STATE
from sottovoce.compress.voice_folder import check_free, check_share, check_tokens, history_entry, write_voice
from sottovoce.compress.window import Curriculum, WindowObjective
from sottovoce.errors import OptionError, VoiceError
from sottovoce.models.decoder import Decoder
from sottovoce.models.voice import Voice


@dataclass(frozen=True)
class WindowRequest:
    """What a user asks for: `voice` under `window`, written to `output`; without `lesson` nothing is learned.

    A lesson is learned from `teacher` (None: the voice itself).
    """

    voice: Path
    output: Path
    window: int
    teacher: Path | None = None
    lesson: Lesson[WindowRecipe] | None = None
    share: bool = False


def window_voice(request: WindowRequest) -> None:
    """Write the voice that is asked for.

    Raises OptionError for a window, recipe or output that cannot be, VoiceError for a voice or teacher that cannot be
    used, CorpusError for a corpus with files that cannot, TrainingError where training breaks down, and OutputError
    where the disk refuses.
    """
    check_free(request.output)
    voice = Voice.open(request.voice)
    check_tokens(voice, "window")
    check_share(voice, request.output, request.share)
    _check_window(request.window, voice)
    if (lesson := request.lesson) is None:
        _write(voice, voice.checkpoint.load(), request, None)
        return
    if request.teacher and not lesson.recipe.loss.kl:
        raise OptionError("--teacher teaches nothing: the recipe's loss.kl is 0")
    teacher = _open_teacher(request, voice) if lesson.recipe.loss.kl else None
    accelerator = open_accelerator(lesson.recipe.train.precision)
    student, facts = _distil(request.window, lesson, voice, teacher, accelerator)
    if accelerator.is_main_process:
        _write(voice, student, request, facts)
        (lesson.folder / STATE).unlink()
    accelerator.end_training()


def _check_window(window: int, voice: Voice) -> None:
    """Raise OptionError for a window that holds nothing, or more than the decoder has positions.

    Learned positions are used up by the prefix too; rotated ones go on, and count alone.
    """
    config = voice.checkpoint.config
    taken = voice.complete().prefix if config.traits.learned_positions else 0
    if window < 2:
        raise OptionError(f"--window {window}: at least 2, the current token and one before it")
    if window > config.max_position - taken:
        used = f", {taken} of them for the prefix" if taken else ""
        raise OptionError(f"--window {window}: {voice.folder} has {config.max_position} positions{used}")


def _open_teacher(request: WindowRequest, voice: Voice) -> Voice:
    """The full-attention voice to learn from; VoiceError where it is none, or is of another shape, depth left aside."""
    teacher = Voice.open(request.teacher or request.voice)
    check_tokens(teacher, "window")
    if (window := teacher.complete().window) is not None:
        raise VoiceError(f"{teacher.folder} attends to {window} tokens: name the voice before that with --teacher")
    theirs, ours = teacher.checkpoint.config, voice.checkpoint.config
    for field in fields(ours):
        if field.name == "layers":  # what is compared are logits: a pruned voice may learn from the whole one
            continue
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine != other:
            raise VoiceError(f"{teacher.folder} has {field.name} {other}, {voice.folder} {mine}: WAND needs the same")
    spoken, wanted = (v.complete().prompt for v in (teacher, voice))
    for name in ("layout", "code_offset", "code_count", "stop"):
        if getattr(spoken, name) != getattr(wanted, name):
            raise VoiceError(
                f"{teacher.folder} and {voice.folder} differ in prompt.{name}: tokens would change meaning"
            )
    return teacher


def _distil(
    window: int, lesson: Lesson[WindowRecipe], voice: Voice, teacher: Voice | None, accelerator: Accelerator
) -> tuple[Decoder, dict[str, Any]]:
    """The trained student, and what its history says about the training."""
    recipe, spec = lesson.recipe, voice.complete()
    student = voice.checkpoint.load()
    taught = teacher.checkpoint.load() if teacher else None

    def objective(steps: int) -> WindowObjective:
        curriculum = Curriculum(recipe.curriculum, window, spec.max_new_tokens, steps)
        return WindowObjective(student, taught, spec.prompt, recipe.loss, curriculum)

    facts = {"teacher": teacher.checkpoint.sha256() if teacher else None}
    return student, distil(voice, lesson, objective, {"window": window}, facts, accelerator)


def _write(voice: Voice, decoder: Decoder, request: WindowRequest, distilled: dict[str, Any] | None) -> None:
    """Write the windowed voice, its history telling how it came about."""
    history = history_entry(voice, "window", window=request.window, distilled=distilled)
    spec = replace(voice.complete(), window=request.window, history=history)
    write_voice(voice, decoder, spec, request.output, request.share)
