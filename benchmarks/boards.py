"""The reference voice on an emulated ARM64 board, over ssh and over adb, one command each: is it the same speech?

    SOTTOVOCE_BOARDS=FOLDER python -m benchmarks.boards [--weights fp32 …] [--cache fp16] [--over ssh adb]
                                                        [--core a76|a53]

FOLDER takes the board, once (root, qemu-user-static, adb). float32 over float32 caches says a sentence greedily: every
token must be the one said here. Elsewhere kernels round otherwise from one kind of processor to another, so that the
board is given the tokens that were said here: its distributions must be as near as KL, and what it says by itself is
heard by the judge. Times are an emulator's and tell nothing of a board's speed. Exit status 1 where a gate is missed.
"""

import argparse
import io
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.steady_memory import export_reference
from sottovoce.compress.evaluate.judges import open_judge, words_of
from sottovoce.devices.profile import TEXT
from sottovoce.devices.report import Profile, read_profile
from sottovoce.devices.targets.session import open_place
from sottovoce.devices.targets.target import open_target, start
from sottovoce.runtime.bundle import Bundle, load_bundle
from sottovoce.runtime.codec import CodecStream
from sottovoce.runtime.prefix import build_prefix
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.session import Floats
from sottovoce.runtime.table import columns
from tests.devices.boards import board

WALL: Final = 300.0
"""Gate: seconds of one command."""

KL: Final = 0.05
"""Gate: nats per token between the distributions here and there; `export --fit` asks for the same."""

FORCED: Final = 60
"""Tokens that both are given."""

FEED: Final = """
import io, json, sys
import numpy as np
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
fed = json.loads(sys.stdin.readline())
stream = Stream(load_bundle(fed["bundle"], 1, verify_hashes=False))
logits = [stream.prefill(fed["prefix"]).copy()] + [stream.step(token).copy() for token in fed["tokens"]]
array = io.BytesIO()
np.save(array, np.stack(logits))  # numpy asks a file where it stands, which a pipe cannot tell
sys.stdout.buffer.write(array.getvalue())
"""
"""Runs there and here: logits [tokens + 1, V'] after a prefix and after each token."""


@dataclass(frozen=True)
class Found:
    """One command: seconds it took, share of tokens equal to those here, nats per token, words wrong here and there."""

    wall: float
    report: Profile
    equal: float
    kl: float
    wrong: tuple[int, int]
    words: int


@contextmanager
def reached(over: str, core: str) -> Iterator[str]:
    """The board, as `--on` names it; its ssh or adb is found by programs that this process starts."""
    with tempfile.TemporaryDirectory() as folder:
        if over == "ssh":
            with board.emulated(core) as server:
                os.environ["SOTTOVOCE_SSH"] = server.ssh
                yield server.url
            return
        with board.emulated_adbd(core) as (inside, _):
            program = Path(folder) / "adb"
            program.write_text(f'#!/bin/sh\nexec {shlex.join(inside)} {shutil.which("adb")} "$@"\n')
            program.chmod(0o755)
            path = os.environ["PATH"]
            os.environ["PATH"] = f"{folder}:{path}"
            try:
                yield "adb://127.0.0.1:6555"
            finally:
                os.environ["PATH"] = path


def profiled(bundle: Path, on: str, folder: Path, greedy: bool) -> tuple[Profile, float]:
    """One command's report, and the seconds it took; its page lies beside it."""
    out = folder / "report.json"
    words = ["profile", str(bundle), "--on", on, "--runs", "1", "--threads", "1", "-o", str(out)]
    words += ["--html", str(out.with_suffix(".html")), *(["--temperature", "0"] if greedy else [])]
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sottovoce", *words], check=True, stdout=subprocess.DEVNULL)
    assert out.with_suffix(".html").stat().st_size > 10_000
    return read_profile(out), time.perf_counter() - begin


def measure(bundle: Path, on: str, folder: Path) -> Found:
    """Say the sentence here and there."""
    greedy = bundle.name == "fp32"
    here, _ = profiled(bundle, "local", folder, greedy)
    there, wall = profiled(bundle, on, folder, greedy)
    said = [[utterance.codes for utterance in report.utterances] for report in (here, there)]
    same = [a == b for pair in zip(*said, strict=True) for a, b in itertools.zip_longest(*pair)]
    opened = load_bundle(bundle, 1)
    kl = 0.0 if greedy else divergence(opened, on, said[0][0][:FORCED])
    wrong = tuple(sum(errors(opened, codes) for codes in each) for each in said)
    count = len(words_of(TEXT).split()) * len(said[0])
    return Found(wall, there, float(np.mean(same)), kl, (wrong[0], wrong[1]), count)


def divergence(bundle: Bundle, on: str, codes: Sequence[int]) -> float:
    """Mean KL of the distributions there to those here, nats per token, after the same tokens."""
    sentence = bundle.voice.frontend.whole(TEXT)
    offset = bundle.voice.prompt.code_offset
    prefix = build_prefix(bundle, sentence.ids, find_prompt(bundle, None))
    fed = {"prefix": prefix, "tokens": [offset + code for code in codes]}
    mine, theirs = (log_softmax(logits(bundle.folder, target, fed)) for target in ("local", on))
    return float((np.exp(mine) * (mine - theirs)).sum(-1).mean())


def logits(bundle: Path, on: str, fed: dict[str, Any]) -> Floats:
    """What the graph on `on` makes of the tokens `fed`."""
    with open_place(open_target(on), bundle) as place:
        process = start(place.target, [*place.python, "-c", FEED])
        out, err = process.communicate(json.dumps(fed | {"bundle": place.bundle}).encode() + b"\n")
    if process.returncode:
        raise SystemExit(err.decode())
    found: Floats = np.load(io.BytesIO(out))
    return found


def log_softmax(logits: Floats) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def errors(bundle: Bundle, codes: Sequence[int]) -> int:
    """Words of the sentence that the judge hears otherwise in the speech of `codes`."""
    import jiwer

    heard = open_judge("pocketsphinx", None).hear(CodecStream(bundle.voice).finish(codes))
    found = jiwer.process_words(words_of(TEXT), heard or "-")
    return int(found.substitutions + found.deletions + found.insertions)


def report(found: dict[str, Found]) -> bool:
    """Print the table and a line per gate; True where all are met."""
    rows: list[tuple[str, ...]] = [("", "s", "tokens equal", "KL", "words wrong here", "there", "of")]
    gates = []
    for name, each in found.items():
        figures = (f"{each.wall:.0f}", f"{each.equal:.1%}", f"{each.kl:.5f}", *map(str, (*each.wrong, each.words)))
        rows.append((name, *figures))
        gates.append((f"{name}: seconds", each.wall, WALL))
        if name.startswith("fp32,"):
            gates.append((f"{name}: share of tokens that differ", 1 - each.equal, 0.0))
        else:
            gates.append((f"{name}: KL", each.kl, KL))
            gates.append(
                (f"{name}: more words wrong there, a word in ten", each.wrong[1] - each.wrong[0], each.words / 10)
            )
    print(columns(rows, indent=""))
    for what, value, most in gates:
        print(f"{'ok  ' if value <= most else 'MISS'} {what}: {value:.4f} (at most {most:g})")
    return all(value <= most for _, value, most in gates)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", nargs="+", default=["fp32", "int8", "int4"], help="default: %(default)s")
    parser.add_argument("--cache", choices=("fp32", "fp16", "int8"), default="fp32", help="default: %(default)s")
    parser.add_argument("--over", nargs="+", choices=("ssh", "adb"), default=["ssh", "adb"], help="default: both")
    parser.add_argument("--core", choices=("a76", "a53"), default="a76", help="processor (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep bundles and reports here and use those that are there")
    args = parser.parse_args(argv)
    if lacking := board.lacking("qemu-aarch64-static", *(["adb", "ip", "nsenter"] if "adb" in args.over else [])):
        raise SystemExit(f"not measured: {lacking}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        found = {}
        for weights in args.weights:
            name = weights if args.cache == "fp32" else f"{weights}-{args.cache}"
            if not (folder / name).exists():
                export_reference(folder / name, weights, args.cache)
            for over in args.over:
                with reached(over, args.core) as on:
                    found[f"{name}, {over}"] = measure(folder / name, on, folder)
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
