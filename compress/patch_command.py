"""`sottovoce compress patch`: a voice that takes a step for several tokens."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

from sottovoce.compress.options import add_training, chosen_lesson, is_first
from sottovoce.compress.recipe import PatchRecipe
from sottovoce.errors import OptionError
from sottovoce.models.patch.config import Compressing, Speaker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("voice", type=Path, help="voice folder (config.json, model.safetensors, codec/ …)")
    add("-o", "--output", type=Path, required=True, help="voice folder to make (training files: OUTPUT.training)")
    add("--patch", type=int, default=4, metavar="K", help="tokens to a step (default: %(default)s)")
    add("--distill", type=Path, metavar="CORPUS", help="the folder to learn from: patches are learned or nothing")
    speaker = (
        "what the tokens of a patch know of the speaker beside the step's word (default: %(default)s, of the clip)"
    )
    add("--speaker", choices=get_args(Speaker), default="pooled", help=speaker)
    compressor = "what a patch is made of beside the mean of its tokens (default: %(default)s over them)"
    add("--compressor", choices=get_args(Compressing), default="attention", help=compressor)
    rank = "of the matrices by which the decoder itself follows; 0: it stays as it is (default: the recipe's)"
    add("--lora-rank", type=int, metavar="R", help=rank)
    student = "a voice that this made of VOICE before, to go on learning (default: nets that know nothing yet)"
    add("--student", type=Path, metavar="PATCHED", help=student)
    add_training(parser, "patch")


def run(args: argparse.Namespace) -> int:
    """Write the voice and return exit status 0."""
    lesson = chosen_lesson(args, PatchRecipe, "patch")
    if lesson is None:
        raise OptionError("--distill CORPUS is missing: what makes and reads patches has to be learned")
    if args.lora_rank is not None:
        if args.lora_rank < 0:
            raise OptionError(f"--lora-rank {args.lora_rank}: 0 (none) or more")
        lora = replace(lesson.recipe.lora, rank=args.lora_rank)
        lesson = replace(lesson, recipe=replace(lesson.recipe, lora=lora))
    from sottovoce.compress.patch_voice import PatchRequest, patch_voice

    sizes = args.patch, lesson, args.speaker, args.compressor
    patch_voice(PatchRequest(args.voice, args.output, *sizes, args.share, args.student))
    if is_first():
        print(f"{args.output}: patches of {args.patch}")
    return 0
