"""`sottovoce verify`: is this bundle intact, and does it say what the voice says?

With `--against VOICE` every gate is measured again. Without it, the bundle is loaded and checked as `say` would (its
hashes, its schema, its graphs against its manifest) and the report that export left in it is shown.
"""

import argparse
from pathlib import Path

from rich.console import Console

from sottovoce.errors import BundleError, OptionError
from sottovoce.export.command import set_threads
from sottovoce.export.show import show_parity
from sottovoce.export.verify import read_parity, verify_bundle
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import check_files, load_bundle
from sottovoce.runtime.manifest import read_manifest
from sottovoce.runtime.output import written_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `verify`."""
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--against", type=Path, metavar="VOICE", help="measure again, against the voice it was made of")
    parser.add_argument("-o", "--output", type=Path, help="with --against: write the new report here (JSON)")
    parser.add_argument("--threads", type=int, help="threads (default: usable processors, at most 4)")


def run(args: argparse.Namespace) -> int:
    """Print the report; exit status 1 where a gate fails."""
    threads = set_threads(args.threads)
    if args.against is None and args.output is not None:
        raise OptionError("-o writes a new report: say what to measure against (--against VOICE)")
    manifest = read_manifest(args.bundle)
    if manifest.coreml is not None:
        from sottovoce.export.coreml import command  # coremltools takes seconds to import, and is an extra

        check_files(args.bundle, manifest)
        return command.verify(args.bundle, args.against, args.output, manifest.codec is None)
    if args.against is None:
        manifest = load_bundle(args.bundle, threads).manifest
        parity = read_parity(args.bundle)
        if parity.passed != (manifest.parity == "passed"):
            raise BundleError(
                f"{args.bundle}: manifest.json and parity.json disagree on whether it passed: export again"
            )
    else:
        speaks = read_manifest(args.bundle).codec is not None
        parity = verify_bundle(args.bundle, Voice.open(args.against, decoder_only=not speaks), threads)
    show_parity(Console(), parity)
    if args.against is None:
        tools = ", ".join(f"{name} {version}" for name, version in parity.tools.items())
        print(f"measured at export, with {tools}; --against VOICE measures again")
    if args.output is not None:
        with written_whole(args.output) as file:
            file.write(parity.to_json().encode())
    return 0 if parity.passed else 1
