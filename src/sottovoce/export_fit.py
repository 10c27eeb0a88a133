"""`sottovoce export`: a bundle as it is asked for, or, with --fit, the smallest that fits a device and keeps the voice.

Candidates are formats of weights and of the cache, the fewest bits first; each is exported and verified, so that what
is said of it was measured. What was tried is kept beside the bundle: a search that was stopped goes on.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from sottovoce.devices.fit import predict
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.table import Device, find_device
from sottovoce.errors import FitError, OptionError, ParityError
from sottovoce.export import command
from sottovoce.export.assemble import export_bundle
from sottovoce.export.plan import Request
from sottovoce.runtime.bundle import sha256
from sottovoce.runtime.manifest import CacheFormat, WeightFormat, parse
from sottovoce.runtime.output import check_output, written_whole
from sottovoce.runtime.strict_json import read_json
from sottovoce.runtime.table import columns, size_text

WEIGHTS: Final[tuple[WeightFormat, ...]] = ("int4", "int8", "fp32")
CACHES: Final[tuple[CacheFormat, ...]] = ("int8", "fp16", "fp32")
"""What is tried, in this order."""

ELSEWHERE: Final = (
    *("decoder_only", "head_ids", "weights_recipe", "block", "head", "calibrate"),
    *("stateful", "dry_run", "keep_failed"),
)
"""Options of a plain export."""


@dataclass(frozen=True)
class Tried:
    """One candidate of a `search` for one voice, device and window.

    `kl` is its mean distance from torch (nats per token), `peak` its predicted memory (bytes), `problem` why it was not
    taken ("": nothing speaks against it).
    """

    search: str
    weights: str
    cache: str
    kl: float | None = None
    peak: float | None = None
    verdict: str = ""
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`, and those of the search."""
    command.add_arguments(parser)
    parser.set_defaults(cache=None)
    add = parser.add_argument
    add("--fit", metavar="DEVICE", help="the smallest formats that fit it (sottovoce devices) and stay near the voice")
    add("--max-kl", type=float, default=0.05, help="with --fit: how near, nats per token (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Export what is asked for, or search; exit status 1 where nothing fits or a gate failed."""
    if args.fit is None:
        args.cache = args.cache or "fp32"
        return command.run(args)
    _check_options(args)
    request = Request(window=args.window, prefix=args.prefix)
    weights = (args.weights,) if args.weights else WEIGHTS
    caches = (args.cache,) if args.cache else CACHES
    requests = [replace(request, weights=w, cache=c) for w, c in itertools.product(weights, caches)]
    threads = command.set_threads(args.threads)
    tried = search(args.voice, args.output, requests, find_device(args.fit), args.max_kl, threads, args.force)
    print(table(tried))
    if tried[-1].problem:
        raise FitError(f"none of {len(tried)} candidates fits {args.fit} within {args.max_kl:g} nats: see the table")
    peak = profile_bundle(args.output, runs=1, threads=threads).memory.peak
    print(f"{args.output}: {tried[-1].weights}, cache {tried[-1].cache}; measured here: peak {size_text(peak)}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise OptionError for an option that a search would pass over in silence."""
    if args.output is None:
        raise OptionError("--fit needs -o BUNDLE: where to write what it finds")
    given = [name for name in ELSEWHERE if getattr(args, name)]
    given += ["target"] if args.target != "onnx" else []
    given += ["flavour"] if args.flavour != "ort" else []
    if given:
        raise OptionError(
            f"--{given[0].replace('_', '-')} does not go with --fit, which chooses formats of ONNX bundles"
        )


def search(
    voice: Path, output: Path, requests: Sequence[Request], device: Device, max_kl: float, threads: int, force: bool
) -> list[Tried]:
    """Candidates up to the first good one, which lies at `output` then; one with a problem comes last where none is.

    Those that an earlier search found wanting are not made again.
    """
    if output.exists() and not force:
        raise OptionError(f"{output} exists: choose another -o, or --force")
    log = output.with_name(f"{output.name}.tried.json")
    check_output(log)
    source = f"{sha256(voice / 'model.safetensors')} {device.title} {requests[0].window}"
    known = {(row.weights, row.cache): row for row in _read(log) if row.search == source}
    tried: list[Tried] = []
    for request in requests:
        key = str(request.weights), request.cache
        row = known.get(key, Tried(source, *key))
        if not _judge(row, max_kl).problem:
            row = _try(voice, output, request, device, max_kl, threads, row)
        tried.append(_judge(row, max_kl))
        with written_whole(log) as file:
            file.write(json.dumps([asdict(each) for each in tried]).encode())
        if not tried[-1].problem:
            break
    return tried


def _try(voice: Path, output: Path, request: Request, device: Device, max_kl: float, threads: int, row: Tried) -> Tried:
    """Export `request` and see what it is; only a good one becomes `output`."""
    print(f"trying weights {row.weights}, cache {row.cache}", file=sys.stderr, flush=True)
    stage = output.with_name(f".{output.name}.candidate")
    try:
        manifest = export_bundle(voice, stage, request, force=True, threads=threads)
        fit = predict(manifest, device)
        found = replace(row, kl=_kl(stage), peak=fit.memory.expected, verdict=fit.verdict)
        if not _judge(found, max_kl).problem:
            if output.exists():
                shutil.rmtree(output)
            stage.rename(output)
        return found
    except (ParityError, OptionError) as error:
        return replace(row, problem=str(error)[:80])
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _judge(row: Tried, max_kl: float) -> Tried:
    """`row` with what speaks against it."""
    if row.problem and row.verdict == "":
        return row
    if row.verdict == "does not fit":
        return replace(row, problem="does not fit")
    return replace(row, problem="too far from the voice" if row.kl is not None and row.kl > max_kl else "")


def _kl(bundle: Path) -> float:
    """The mean distance from torch that was measured when `bundle` was exported, nats per token."""
    value: float = read_json(bundle / "parity.json")["decoder"]["kl"]
    return value


def _read(log: Path) -> Iterator[Tried]:
    """Rows of an earlier search; none where there was none."""
    if log.exists():
        yield from (parse(Tried, value, str(log)) for value in read_json(log))


def table(tried: Sequence[Tried]) -> str:
    """What was tried."""
    rows = [("weights", "cache", "peak", "verdict", "KL", "")]
    for row in tried:
        peak = "-" if row.peak is None else size_text(round(row.peak))
        kl = "-" if row.peak is None or row.kl is None else f"{row.kl:.4f}"
        rows.append((row.weights, row.cache, peak, row.verdict or "-", kl, row.problem or "taken"))
    return columns(rows)
