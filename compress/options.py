"""Options that the methods of `sottovoce compress` share: where a voice goes, and how it learns."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sottovoce.compress.recipe import read_recipe
from sottovoce.errors import OptionError
from sottovoce.runtime.session import thread_count

TRAINING: Final = ("recipe", "steps", "cache", "skip_bad", "resume")
"""Options that mean nothing where nothing is trained."""


def add_training(parser: argparse.ArgumentParser, shipped: str) -> None:
    """Declare what a distillation is told, by default with the recipe `shipped`, and what every method takes."""
    add = parser.add_argument
    add("--recipe", type=Path, metavar="FILE", help=f"how to train, TOML (default: the shipped recipes/{shipped}.toml)")
    add("--steps", type=int, metavar="N", help="updates to train for (default: the recipe's)")
    add("--cache", type=Path, metavar="FOLDER", help="where the corpus is kept as tokens (default: CORPUS.tokens)")
    add("--skip-bad", action="store_true", help="leave out files of the corpus that are missing or unreadable")
    add("--resume", action="store_true", help="go on where a run with the same options was stopped or killed")
    add("--share", action="store_true", help="leave codec, text and presets with VOICE, beside which OUTPUT then lies")
    add("--threads", type=int, help="threads per process (default: usable processors, at most 4, shared evenly)")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="show the whole traceback of an error")


def refuse(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise OptionError where one of the options `names` is given: `why` says what it goes with."""
    # By identity: 0 equals False, and is given.
    if given := [name for name in names if (value := getattr(args, name)) is not None and value is not False]:
        raise OptionError(f"--{given[0].replace('_', '-')} goes with {why}")


def chosen_lesson(args: argparse.Namespace, kind: Any, shipped: str) -> Any:
    """What `args` tell of a distillation by a recipe of dataclass `kind`.

    Without a corpus None; OptionError where an option is given that goes with one.
    """
    if args.distill is None:
        refuse(args, TRAINING, "--distill CORPUS")
        return None
    from sottovoce.compress.distil import Lesson, training_folder

    recipe = chosen_recipe(kind, shipped, args.recipe, args.steps)
    return Lesson(args.distill, training_folder(args.output), recipe, args.cache, args.resume, args.skip_bad)


def chosen_recipe(kind: Any, shipped: str, path: Path | None, steps: int | None) -> Any:
    """The recipe of dataclass `kind` that is asked for, with the steps of the command line where they are given."""
    recipe = read_recipe(kind, shipped, path)
    if steps is None:
        return recipe
    if steps < 1:
        raise OptionError(f"--steps {steps}: at least 1 is needed")
    return replace(recipe, train=replace(recipe.train, steps=steps))


def threads_of_process(asked: int | None) -> int:
    """Threads of this process: those asked for, else its share of the processors."""
    if asked is not None:
        return thread_count(asked)
    return max(1, thread_count(None) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def is_first() -> bool:
    """Whether this process is the one that speaks to the user."""
    return int(os.environ.get("RANK", 0)) == 0
