"""`sottovoce compress window`: a voice under a window, or a report of what each window would leave."""

import argparse
from pathlib import Path

from sottovoce.compress.options import add_training, chosen_lesson, is_first, refuse
from sottovoce.compress.recipe import WindowRecipe
from sottovoce.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
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
    report = "tell what attention and memory each window would leave, and make no voice; -o writes it as JSON"
    add("--report", action="store_true", help=report)
    add("--utterances", type=int, metavar="N", help="with --report: of CORPUS, else of speech the voice makes (5)")
    add_training(parser, "window")


def run(args: argparse.Namespace) -> int:
    """Write the voice, or the report, and return exit status 0."""
    if args.report:
        from sottovoce.compress.attention_report import run_report

        return run_report(args)
    refuse(args, ["utterances"], "--report")
    if args.output is None:
        raise OptionError("-o OUTPUT is missing: the voice folder to make")
    if args.window is None:
        raise OptionError("--window W is missing: how many generated tokens stay visible")
    if args.distill is None:
        refuse(args, ["teacher"], "--distill CORPUS")
    from sottovoce.compress.window_voice import WindowRequest, window_voice

    lesson = chosen_lesson(args, WindowRecipe, "window")
    window_voice(WindowRequest(args.voice, args.output, args.window, args.teacher, lesson, args.share))
    if is_first():
        print(f"{args.output}: window {args.window}")
    return 0
