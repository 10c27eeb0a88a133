"""What every distillation of a voice shares: corpus → batches → steps, and what its history says about it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from accelerate import Accelerator

from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.loop import Objective, Run, train
from sottovoce.compress.prepare import corpus_hash, prepare
from sottovoce.compress.recipe import PatchRecipe, PruneRecipe, WindowRecipe
from sottovoce.models.voice import Voice

_NEUTRAL: Final = ("train.epochs", "train.steps", "train.accumulate", "train.checkpoint_every")
"""Values of a recipe that a resumed run may change: its steps are compared as such, the others change no result."""


R = TypeVar("R", WindowRecipe, PruneRecipe, PatchRecipe)


@dataclass(frozen=True)
class Lesson(Generic[R]):
    """What a voice learns from: `corpus` by `recipe`, the training's files in `folder`.

    `cache` keeps the corpus as tokens (None: a folder beside it).
    """

    corpus: Path
    folder: Path
    recipe: R
    cache: Path | None = None
    resume: bool = False
    skip_bad: bool = False


def distil(
    voice: Voice,
    lesson: Lesson[R],
    objective: Callable[[int], Objective],
    settings: dict[str, Any],
    facts: dict[str, Any],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Train what `objective` makes for a number of steps, in place; what history says: `facts`, corpus and recipe.

    `settings` and `facts` (JSON values) tell a run that may be resumed from others. Raises as `prepare` and `train` do.
    """
    recipe = lesson.recipe
    batches = prepare(
        read_corpus(lesson.corpus),
        voice,
        recipe.batch,
        accelerator,
        cache=lesson.cache or beside(lesson.corpus, ".tokens"),
        folder=lesson.folder,
        skip_bad=lesson.skip_bad,
    )
    steps = recipe.train.steps or max(1, round(recipe.train.epochs * batches.steps_per_epoch))
    learned = {"corpus": corpus_hash(batches.spoken), "utterances": len(batches.usable), "steps": steps}
    chosen = {name: value for name, value in _flat(asdict(recipe)).items() if name not in _NEUTRAL}
    told = {"voice": voice.checkpoint.sha256(), **settings, **facts, **learned, **chosen}
    train(objective(steps), batches, recipe.train, Run(lesson.folder, steps, told, lesson.resume), accelerator)
    return {**facts, **learned, "recipe": asdict(replace(recipe, train=replace(recipe.train, steps=steps)))}


def training_folder(output: Path) -> Path:
    """Where the training's files of the voice `output` go: beside it."""
    return beside(output, ".training")


def beside(path: Path, suffix: str) -> Path:
    """A path next to `path`, its name with `suffix`."""
    whole = path.resolve()
    return whole.with_name(whole.name + suffix)


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat
