"""`sottovoce export`: a voice folder → a bundle, verified before it appears."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from sottovoce.errors import OptionError
from sottovoce.export.assemble import Progress, export_bundle
from sottovoce.export.plan import Ranges, Request, Window, plan_export
from sottovoce.export.quantize import BLOCK_SIZES, PER_CHANNEL
from sottovoce.export.show import show_parity, show_plan, show_warnings
from sottovoce.export.weight_recipe import FORMATS, WeightRecipe, read_weight_recipe
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import CodecFormat, Flavour
from sottovoce.runtime.session import thread_count
from sottovoce.runtime.table import size_text

CACHES = ("fp32", "fp16", "int8")
"""Formats of keys and values that can be exported."""

CODECS: tuple[CodecFormat, ...] = ("fp32", "fp16", "int8")
"""Formats of the codec's decoder that can be exported."""

FLAVOURS: tuple[Flavour, ...] = ("ort", "portable")
"""Kinds of ONNX graphs that can be exported."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    add = parser.add_argument
    add("voice", type=Path, help="voice folder (config.json, model.safetensors, codec/ …)")
    add("-o", "--output", type=Path, help="bundle folder to make")
    target = "what will run it (default: %(default)s); coreml and coreai (beta) are extras: 'sottovoce[coreml]'"
    add("--target", choices=("onnx", "coreml", "coreai"), default="onnx", help=target)
    weights = "format of the weights (default: int8, coreai's fp16); fp16 is no faster for onnx; palette4 is for coreml"
    add("--weights", choices=(*FORMATS, "palette4"), help=weights)
    block = (
        "weights that share a scale (default: the largest that fits); smaller ones lose less, larger ones are faster; "
        "0: one scale for each output channel, int8 of --flavour portable"
    )
    add("--block", type=int, choices=(*BLOCK_SIZES, PER_CHANNEL), help=block)
    add("--head", choices=FORMATS, help="format of head and embedding (default: as --weights, int8 for int4)")
    calibrate = "round the layers for what the voice says (GPTQ) instead of to the nearest step"
    add("--calibrate", action="store_true", default=None, help=calibrate)
    recipe = "TOML file with formats, also layer by layer, instead of these four"
    add("--weights-recipe", type=Path, metavar="FILE", help=recipe)
    add("--window", type=window, metavar="N|full", help="generated tokens kept in the cache (default: the voice's)")
    cache = "numbers that keys and values are kept in (default: fp32); fp16 takes half the memory, int8 a quarter"
    add("--cache", choices=CACHES, default="fp32", help=cache)
    codec = "format of the codec's decoder (default: %(default)s): fp16 half the file, int8 less than a third"
    add("--codec", choices=CODECS, default="fp32", help=codec)
    flavour = (
        "ort: one graph with ONNX Runtime's own operators; portable: two of standard ones and fixed shapes, "
        "for other engines and old versions (default: %(default)s)"
    )
    add("--flavour", choices=FLAVOURS, default="ort", help=flavour)
    add("--prefix", type=int, metavar="P", help="cache slots for text and speaker prompt (default: the voice's)")
    add("--decoder-only", action="store_true", help="export only the decoder of a bare Hugging Face folder")
    add(
        "--head-ids",
        type=head_ids,
        metavar="A:B,…",
        help="with --decoder-only: token ids to keep logits of, A ≤ id < B",
    )
    add("--stateful", action="store_true", help="with --target coreml: caches are states that Core ML keeps (iOS 18)")
    add("--dry-run", action="store_true", help="print what would be written, sizes and cache bytes; write nothing")
    add("--force", action="store_true", help="replace an existing bundle")
    add("--keep-failed", action="store_true", help="keep a bundle that fails verification, marked as failed")
    add("--threads", type=int, help="threads for verification (default: usable processors, at most 4)")


def run(args: argparse.Namespace) -> int:
    """Export (or only plan) and return the exit status: 1 where a kept bundle failed its gates."""
    if args.target != "onnx":
        from sottovoce.export.coreml import command  # coremltools takes seconds to import, and is an extra

        if args.flavour != "ort" or args.codec != "fp32":
            option = f"--flavour {args.flavour}" if args.flavour != "ort" else f"--codec {args.codec}"
            raise OptionError(f"{option} goes with --target onnx: Apple's runtimes read no ONNX")
        set_threads(args.threads)
        return command.export(args)
    if args.stateful:
        raise OptionError("--stateful goes with --target coreml: ONNX caches are inputs and outputs")
    ids = args.head_ids
    formats = args.cache, args.flavour, args.codec
    request = Request(weights_of(args), args.window, args.prefix, args.decoder_only, ids, *formats)
    threads = set_threads(args.threads)
    if args.dry_run:
        show_plan(Console(), plan_export(Voice.open(args.voice, args.decoder_only), request))
        return 0
    if args.output is None:
        raise OptionError("-o BUNDLE is missing: where to write (or --dry-run to write nothing)")
    console = Console()
    with Console(file=sys.stderr).status("export") as status:
        progress = Progress(
            stage=lambda text: status.update(text) if sys.stderr.isatty() else print(text, file=sys.stderr),
            verified=lambda parity: show_parity(console, parity),
        )
        keep = {"force": args.force, "keep_failed": args.keep_failed}
        manifest = export_bundle(args.voice, args.output, request, **keep, threads=threads, progress=progress)
    show_warnings(console, manifest.warnings)
    size = sum(entry.size for entry in manifest.files.values())
    console.print(
        f"{args.output}: {size_text(size)}, cache {size_text(manifest.cache.bytes)}", highlight=False, soft_wrap=True
    )
    return 0 if manifest.parity == "passed" else 1


def weights_of(args: argparse.Namespace) -> WeightRecipe:
    """The recipe in a file, or that of the options; OptionError for both at once."""
    asked = {"weights": args.weights, "block": args.block, "head": args.head, "calibrate": args.calibrate}
    given = {name: value for name, value in asked.items() if value is not None}
    if args.weights_recipe is None:
        return WeightRecipe(**given)
    if given:
        raise OptionError(f"--{next(iter(given))} and --weights-recipe: the file says it all")
    return read_weight_recipe(args.weights_recipe)


def set_threads(asked: int | None) -> int:
    """Threads for torch and ONNX Runtime alike; raises OptionError below 1."""
    threads = thread_count(asked)
    torch.set_num_threads(threads)
    return threads


def window(text: str) -> Window:
    """`full` or a number."""
    return "full" if text == "full" else int(text)


def head_ids(text: str) -> Ranges:
    """`0:6400,6403` → half-open ranges ((0, 6400), (6403, 6404))."""
    ranges = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        ranges.append((int(first), int(last) if last else int(first) + 1))
    return tuple(ranges)
