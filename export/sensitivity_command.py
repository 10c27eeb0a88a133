"""`sottovoce sensitivity`: which of a voice's layers bear fewer bits, as a table and as JSON."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sottovoce.errors import OptionError
from sottovoce.export.command import set_threads
from sottovoce.export.head import ids_of, speech_ranges
from sottovoce.export.own_speech import SENTENCES, own_speech
from sottovoce.export.sensitivity import FORMATS, Sensitivity, sensitivity
from sottovoce.models.voice import Voice
from sottovoce.runtime.output import check_output, written_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sensitivity`."""
    add = parser.add_argument
    add("voice", type=Path, help="voice folder")
    add("-o", "--output", type=Path, metavar="FILE", help="the report as JSON")
    add("--sentences", type=Path, metavar="FILE", help="text that the voice says (default: twenty built-in sentences)")
    add("--threads", type=int, help="threads (default: usable processors, at most 4)")


def run(args: argparse.Namespace) -> int:
    """Let the voice speak, round it layer by layer, print the table; exit status 0."""
    set_threads(args.threads)
    if args.output:
        check_output(args.output)
    voice = Voice.open(args.voice)
    voice.refuse_patches("sensitivity knows voices of tokens alone, ask about the one that it was made of")
    spec, decoder = voice.complete(), voice.checkpoint.load().eval().requires_grad_(False)
    window = spec.window or spec.max_new_tokens + 1
    with Console(file=sys.stderr).status("listening to the voice") as status:
        speech = own_speech(voice, decoder, window, _text(args.sentences))
        ids = ids_of(speech_ranges(spec.prompt))
        found = sensitivity(decoder, speech, window, ids, progress=status.update)
    if args.output:
        with written_whole(args.output) as file:
            file.write((json.dumps(asdict(found), indent=1) + "\n").encode())
    show(Console(), found)
    return 0


def show(console: Console, found: Sensitivity) -> None:
    """A row for each part of the decoder, a column for each format."""
    table = Table(box=None, padding=(0, 2), title=f"KL to float32, nats per token, over {found.tokens} tokens")
    table.add_column("rounded")
    for bits, block in FORMATS:
        table.add_column(f"{bits} bits\nblock {block}", justify="right")
    for part in dict.fromkeys(row.part for row in found.rows):
        table.add_row(part, *(f"{row.kl:.1e}" for row in found.rows if row.part == part))
    console.print(table)


def _text(path: Path | None) -> str:
    """The text in a file, or the built-in sentences; OptionError where it cannot be read."""
    if path is None:
        return SENTENCES
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from None
