"""`sottovoce prompt save`: a speaker's clip, kept in a bundle as codes."""

import argparse
from pathlib import Path

from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.manifest import Prompt
from sottovoce.runtime.prefix import text_room
from sottovoce.runtime.prompt import check_transcript, encode_clip, save_preset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `prompt`."""
    save = parser.add_subparsers(dest="action", required=True).add_parser("save", help="encode a clip and keep it")
    save.add_argument("bundle", type=Path, help="bundle folder")
    save.add_argument("clip", type=Path, help="audio file of the speaker's clear speech, as long as the bundle takes")
    save.add_argument("name", help="name to call the speaker by: letters, digits, - and _")
    save.add_argument("--prompt-text", help="the words of the clip, for voices that use them")
    save.add_argument("--licence", default="not stated", help="licence of the clip")
    save.add_argument("--consent", default="not stated", help="how the speaker agreed to this use")
    save.add_argument("--threads", type=int, help="threads per graph (default: usable processors, at most 4)")
    save.add_argument("--force", action="store_true", help="replace a prompt saved under this name before")


def run(args: argparse.Namespace) -> int:
    """Save the prompt and return exit status 0."""
    bundle = load_bundle(args.bundle, threads=args.threads)
    check_transcript(bundle, args.prompt_text)
    prompt = Prompt(encode_clip(bundle, args.clip), args.prompt_text or "", args.licence, args.consent)
    room = text_room(bundle, prompt)
    path = save_preset(bundle, args.name, prompt, args.force)
    print(f"{path}: {len(prompt.codes)} codes, which leave room for {room} text tokens per sentence")
    return 0
