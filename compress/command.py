"""`sottovoce compress`: a voice → a smaller voice, by one of the methods; the output is a voice like any other."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from sottovoce.compress.recipe import WindowRecipe, read_recipe
from sottovoce.errors import OptionError
from sottovoce.runtime.session import thread_count

_TRAINING = ("teacher", "recipe", "steps", "cache", "skip_bad", "resume")
"""Options that mean nothing where nothing is trained."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the methods and their options."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="method")
    _add_window(
        methods.add_parser(
            "window",
            help="constant memory: attend to the prefix and a window of what was said (WAND)",
            description="Several processes: torchrun --nproc-per-node N -m sottovoce compress window …",
        )
    )


def run(args: argparse.Namespace) -> int:
    """Compress and return exit status 0."""
    torch.set_num_threads(_threads(args.threads))
    return _window(args)


def _add_window(parser: argparse.ArgumentParser) -> None:
    """Options of `compress window`."""
    add = parser.add_argument
    add("voice", type=Path, help="voice folder (config.json, model.safetensors, codec/ …)")
    add(
        "-o",
        "--output",
        type=Path,
        help="voice folder to make (training files: OUTPUT.training); with --report, a JSON file",
    )
    add("--window", type=int, metavar="W", help="generated tokens that stay visible, the current one included")
    add("--distill", type=Path, metavar="CORPUS", help="train on this folder; without it only the window is written")
    add("--teacher", type=Path, metavar="VOICE", help="full-attention voice to learn from (default: the voice itself)")
    add("--recipe", type=Path, metavar="FILE", help="how to train, TOML (default: the shipped recipes/window.toml)")
    add("--steps", type=int, metavar="N", help="updates to train for (default: the recipe's)")
    add("--cache", type=Path, metavar="FOLDER", help="where the corpus is kept as tokens (default: CORPUS.tokens)")
    report = "tell what attention and memory each window would leave, and make no voice; -o writes it as JSON"
    add("--report", action="store_true", help=report)
    add("--utterances", type=int, metavar="N", help="with --report: of CORPUS, else of speech the voice makes (5)")
    add("--skip-bad", action="store_true", help="leave out files of the corpus that are missing or unreadable")
    add("--resume", action="store_true", help="go on where a run with the same options was stopped or killed")
    add("--threads", type=int, help="threads per process (default: usable processors, at most 4, shared evenly)")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="show the whole traceback of an error")


def _window(args: argparse.Namespace) -> int:
    """`compress window`."""
    if args.report:
        from sottovoce.compress.attention_report import run_report

        return run_report(args)
    if args.utterances is not None:
        raise OptionError("--utterances goes with --report")
    if args.output is None:
        raise OptionError("-o OUTPUT is missing: the voice folder to make")
    if args.window is None:
        raise OptionError("--window W is missing: how many generated tokens stay visible")
    if args.distill is None and (given := [n for n in _TRAINING if getattr(args, n)]):
        raise OptionError(f"--{given[0].replace('_', '-')} goes with --distill CORPUS")
    from sottovoce.compress.window_voice import WindowRequest, window_voice

    request = WindowRequest(
        voice=args.voice,
        output=args.output,
        window=args.window,
        corpus=args.distill,
        teacher=args.teacher,
        recipe=_recipe(args.recipe, args.steps),
        cache=args.cache,
        resume=args.resume,
        skip_bad=args.skip_bad,
    )
    window_voice(request)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{args.output}: window {args.window}")
    return 0


def _recipe(path: Path | None, steps: int | None) -> WindowRecipe:
    """The recipe that is asked for, with the steps of the command line where they are given."""
    recipe: WindowRecipe = read_recipe(WindowRecipe, "window", path)
    if steps is None:
        return recipe
    if steps < 1:
        raise OptionError(f"--steps {steps}: at least 1 is needed")
    return replace(recipe, train=replace(recipe.train, steps=steps))


def _threads(asked: int | None) -> int:
    """Threads of this process: those asked for, else its share of the processors."""
    if asked is not None:
        return thread_count(asked)
    return max(1, thread_count(None) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
