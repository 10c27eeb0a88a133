"""`sottovoce compress`: a voice → a smaller voice, by one of the methods; the output is a voice like any other."""

import argparse
from typing import Final

import torch

from sottovoce.compress import patch_command, prune_command, window_command
from sottovoce.compress.options import threads_of_process

METHODS: Final = {
    "window": (window_command, "constant memory: attend to the prefix and a window of what was said (WAND)"),
    "prune": (prune_command, "fewer layers: those stay that matter most to the words (SPADE)"),
    "patch": (patch_command, "fewer steps: one for several tokens, which two small nets make of it (TLDR)"),
}
"""Method → module with `add_arguments(parser)` and `run(args) -> exit status`, and its line of help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the methods and their options."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="method")
    for name, (module, line) in METHODS.items():
        several = f"Several processes: torchrun --nproc-per-node N -m sottovoce compress {name} …"
        module.add_arguments(methods.add_parser(name, help=line, description=several))


def run(args: argparse.Namespace) -> int:
    """Compress and return the exit status."""
    torch.set_num_threads(threads_of_process(args.threads))
    status: int = METHODS[args.method][0].run(args)
    return status
