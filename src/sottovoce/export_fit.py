"""`sottovoce export`: a bundle as it is asked for, or, with --fit, the smallest that fits a device and keeps the voice.

Candidates are formats of weights and of the cache and windows, the smallest first; each is exported and verified, so
that what is said of it was measured. What was tried is kept beside the bundle: a search that was stopped goes on.
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

from sottovoce.devices.fit import BITS, SHARES, predict
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.table import Device, find_device
from sottovoce.errors import FitError, OptionError, ParityError
from sottovoce.export import command
from sottovoce.export.assemble import export_bundle
from sottovoce.export.bundle_writer import check_target
from sottovoce.export.mobile import write_mobile
from sottovoce.export.plan import Request
from sottovoce.fit_judge import ByTokens, ByWords, Judge
from sottovoce.runtime.bundle import sha256
from sottovoce.runtime.manifest import CacheFormat, WeightFormat
from sottovoce.runtime.output import check_output, written_whole
from sottovoce.runtime.parse import parse
from sottovoce.runtime.strict_json import read_json
from sottovoce.runtime.table import columns, size_text

WEIGHTS: Final[tuple[WeightFormat, ...]] = ("int4", "int8", "fp32")
CACHES: Final[tuple[CacheFormat, ...]] = ("int8", "fp16", "fp32")
"""What is tried, in this order."""

ELSEWHERE: Final = (
    *("decoder_only", "head_ids", "weights_recipe", "block", "head", "calibrate"),
    *("stateful", "dry_run", "keep_failed", "mobile"),
)
"""Options of a plain export."""


@dataclass(frozen=True)
class Tried:
    """One candidate of a `search` for one voice, device and judge.

    `loss` is what it loses by that judge, `peak` its predicted memory (bytes), `problem` why it was not taken ("":
    nothing speaks against it).
    """

    search: str
    weights: str
    cache: str
    window: str
    loss: float | None = None
    peak: float | None = None
    verdict: str = ""
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`, and those of the search."""
    command.add_arguments(parser)
    parser.set_defaults(cache=None)
    add = parser.add_argument
    mobile = "also write the graphs for phones here: .ort files, and the operators a reduced onnxruntime needs"
    add("--mobile", type=Path, metavar="FOLDER", help=mobile)
    add("--fit", metavar="DEVICE", help="the smallest formats that fit it (sottovoce devices) and stay near the voice")
    add("--max-kl", type=float, default=0.05, help="with --fit: how near, nats per token (default: %(default)s)")
    words = "with --fit: how near, points of word error rate above the voice's, heard by pocketsphinx; instead of KL"
    add("--max-wer-loss", type=float, metavar="POINTS", help=words)
    add(
        "--sentences",
        type=Path,
        metavar="FILE",
        help="with --max-wer-loss: a sentence per line (default: built-in ones)",
    )
    windows = "with --max-wer-loss: windows to try (default: --window)"
    add("--windows", type=command.window, nargs="+", metavar="N|full", help=windows)


def run(args: argparse.Namespace) -> int:
    """Export what is asked for, or search; exit status 1 where nothing fits or a gate failed."""
    if args.fit is None:
        args.cache = args.cache or "fp32"
        return _plain(args)
    _check_options(args)
    threads = command.set_threads(args.threads)
    judge: Judge = ByTokens(args.max_kl)
    if args.max_wer_loss is not None:
        heard = args.output.with_name(f"{args.output.name}.heard")
        judge = ByWords(args.max_wer_loss, args.voice, args.sentences, heard, threads)
    device = find_device(args.fit)
    tried = search(args.voice, args.output, requests(args), device, judge, threads, args.force)
    print(table(tried, judge.name))
    if tried[-1].problem:
        raise FitError(f"none of {len(tried)} candidates fits {args.fit} within {judge.most:g}: see the table")
    peak = profile_bundle(args.output, runs=1, threads=threads).memory.peak
    room = SHARES[1] * device.ram * 1e9
    inside = f"{'within' if peak <= room else 'above'} {size_text(round(room))}, the most that is tight on {args.fit}"
    print(f"{args.output}: {_name(tried[-1])}; measured here: peak {size_text(peak)}, {inside}")
    return 0


def _plain(args: argparse.Namespace) -> int:
    """One export, as it is asked for."""
    if args.mobile is None:
        return command.run(args)
    if args.target != "onnx" or args.dry_run:
        raise OptionError("--mobile goes with --target onnx and without --dry-run: it converts ONNX graphs")
    check_target(args.mobile, force=False)
    status = command.run(args)
    print(f"{args.mobile}: {', '.join(write_mobile(args.output, args.mobile))}")
    return status


def requests(args: argparse.Namespace) -> list[Request]:
    """What is tried: by weights, then by bits of a cache's slots times their number, the smallest first."""
    weights = (args.weights,) if args.weights else WEIGHTS
    caches = (args.cache,) if args.cache else CACHES
    windows = args.windows or [args.window]
    slots = {window: float("inf") if window in ("full", None) else window for window in windows}
    pairs = sorted(itertools.product(caches, windows), key=lambda pair: (BITS[pair[0]] * slots[pair[1]], BITS[pair[0]]))
    request = Request(prefix=args.prefix)
    return [replace(request, weights=w, cache=c, window=n) for w in weights for c, n in pairs]


def _check_options(args: argparse.Namespace) -> None:
    """Raise OptionError for an option that a search would pass over in silence."""
    if args.output is None:
        raise OptionError("--fit needs -o BUNDLE: where to write what it finds")
    if args.max_wer_loss is None and (args.windows or args.sentences):
        raise OptionError("--windows and --sentences go with --max-wer-loss: KL does not tell what a window loses")
    given = [name for name in ELSEWHERE if (value := getattr(args, name)) is not None and value is not False]
    given += ["target"] if args.target != "onnx" else []
    given += ["flavour"] if args.flavour != "ort" else []
    given += ["codec"] if args.codec != "fp32" else []
    if given:
        raise OptionError(
            f"--{given[0].replace('_', '-')} does not go with --fit, which chooses formats of ONNX bundles"
        )


def search(
    voice: Path, output: Path, requests: Sequence[Request], device: Device, judge: Judge, threads: int, force: bool
) -> list[Tried]:
    """Candidates up to the first good one, which lies at `output` then; one with a problem comes last where none is.

    Those that an earlier search found wanting are not made again.
    """
    if output.exists() and not force:
        raise OptionError(f"{output} exists: choose another -o, or --force")
    log = output.with_name(f"{output.name}.tried.json")
    check_output(log)
    source = f"{sha256(voice / 'model.safetensors')} {device.title} {judge.name}"
    known = {(row.weights, row.cache, row.window): row for row in _read(log) if row.search == source}
    tried: list[Tried] = []
    for request in requests:
        key = str(request.weights), request.cache, str(request.window or "the voice's")
        row = known.get(key, Tried(source, *key))
        if not _judged(row, judge.most).problem:
            row = _try(voice, output, request, device, judge, threads, row)
        tried.append(_judged(row, judge.most))
        with written_whole(log) as file:
            file.write(json.dumps([asdict(each) for each in tried]).encode())
        if not tried[-1].problem:
            break
    return tried


def _try(voice: Path, output: Path, request: Request, device: Device, judge: Judge, threads: int, row: Tried) -> Tried:
    """Export `request` and see what it is; only a good one becomes `output`."""
    print(f"trying {_name(row)}", file=sys.stderr, flush=True)
    stage = output.with_name(f".{output.name}.candidate")
    try:
        manifest = export_bundle(voice, stage, request, force=True, threads=threads)
        fit = predict(manifest, device)
        found = replace(row, peak=fit.memory.expected, verdict=fit.verdict)
        if not _judged(found, judge.most).problem:  # judges take their time
            found = replace(found, loss=judge.loss(stage))
        if not _judged(found, judge.most).problem:
            if output.exists():
                shutil.rmtree(output)
            stage.rename(output)
        return found
    except (ParityError, OptionError) as error:
        return replace(row, problem=str(error)[:80])
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _name(row: Tried) -> str:
    """A candidate in words."""
    return f"weights {row.weights}, cache {row.cache}, window {row.window}"


def _judged(row: Tried, most: float) -> Tried:
    """`row` with what speaks against it, where it may lose `most`."""
    if row.problem and row.verdict == "":
        return row
    if row.verdict == "does not fit":
        return replace(row, problem="does not fit")
    return replace(row, problem="too far from the voice" if row.loss is not None and row.loss > most else "")


def _read(log: Path) -> Iterator[Tried]:
    """Rows of an earlier search; none where there was none."""
    if log.exists():
        yield from (parse(Tried, value, str(log)) for value in read_json(log))


def table(tried: Sequence[Tried], judge: str) -> str:
    """What was tried."""
    rows = [("weights", "cache", "window", "peak", "verdict", judge, "")]
    for row in tried:
        peak = "-" if row.peak is None else size_text(round(row.peak))
        loss = "-" if row.loss is None else f"{row.loss:.4f}"
        rows.append((row.weights, row.cache, row.window, peak, row.verdict or "-", loss, row.problem or "taken"))
    return columns(rows)
