"""The `sottovoce` command: a table of commands, each imported only when it is named."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from sottovoce import __version__
from sottovoce.runtime.console import add_debug, guarded

COMMANDS: Final = {
    "say": ("sottovoce.runtime.say", "speak text with a bundle"),
    "prompt": ("sottovoce.runtime.prompt_command", "keep a speaker in a bundle"),
    "inspect": ("sottovoce.runtime.inspect_command", "show what a bundle holds"),
    "compress": ("sottovoce.compress.command", "make a voice smaller: window, prune, patch"),
    "export": ("sottovoce.export_fit", "make a bundle of a voice"),
    "sensitivity": ("sottovoce.export.sensitivity_command", "which layers of a voice bear fewer bits"),
    "verify": ("sottovoce.export.verify_command", "check a bundle against the voice it was made of"),
    "evaluate": (
        "sottovoce.compress.evaluate.command",
        "word errors, distortion, speakers and runaways of what it says",
    ),
    "profile": ("sottovoce.devices.command", "measure memory, latency and real-time factor"),
    "mil": ("sottovoce.export.mil.command", "run and show Core ML packages, on any machine"),
    "fit": ("sottovoce.devices.fit_command", "tell whether a bundle fits a device, and how fast it will be"),
    "devices": ("sottovoce.devices.table_command", "list the devices that fit knows, with sources"),
    "demo": ("sottovoce.demo", "export, verify, speak and profile the committed voice"),
}
"""Command → module with `add_arguments(parser)` and `run(args) -> exit status`, and its line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: the process's own) and return its exit status."""
    top = argparse.ArgumentParser(
        prog="sottovoce",
        description="Text-to-speech decoders, made small, for phones and boards.",
        epilog="commands:\n" + "".join(f"  {name:12}{line}\n" for name, (_, line) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"sottovoce {__version__}")
    add_debug(top)
    top.add_argument("command", choices=COMMANDS, metavar="command", help="one of those below; COMMAND --help for each")
    top.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = top.parse_args(argv)
    return guarded(lambda: _run(args.command, args.arguments, args.debug), args.debug or "--debug" in args.arguments)


def _run(command: str, arguments: Sequence[str], debug: bool) -> int:
    """Import the module of `command`, let it declare its arguments, and run it."""
    name, line = COMMANDS[command]
    module = importlib.import_module(name)
    parser = argparse.ArgumentParser(prog=f"sottovoce {command}", description=f"{line[0].upper()}{line[1:]}.")
    add_debug(parser)
    module.add_arguments(parser)
    args = parser.parse_args(arguments)
    args.debug |= debug
    status: int = module.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
