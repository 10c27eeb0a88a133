"""What drawing a token costs beside the step before it: Qwen2-0.5B shape with a head of 65,536 logits, int4.

    python -m benchmarks.sampling [--threads N] [--steps 100] [--folder KEPT]

Steps and draws take turns in one process. Logits are normal: of a spread as decided as a speech model's (a perplexity
of about 100), and all but flat, which no model's are and which is the most that a draw can cost. Gate: each rule's
draw, of decided logits, takes 3 % of the step at most; exit status 1 where one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.checkpoints import write_checkpoint, write_manifest
from benchmarks.folders import kept_folder
from benchmarks.quantized import PREFIX, WINDOW
from benchmarks.shape05b import CONFIG
from sottovoce.export.decoder import DecoderOptions, export_decoder
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.sampling import Sampler

LOGITS: Final = 65_536
SHARE: Final = 0.03
SPREADS: Final = {"decided": 4.0, "flat": 0.3}
"""Standard deviation of the logits."""

RULES: Final = {
    "greedy": SamplingSpec(temperature=0),
    "temperature alone": SamplingSpec(temperature=0.8),
    "top-k 50": SamplingSpec(temperature=0.8, top_k=50),
    "top-p 0.95": SamplingSpec(temperature=0.8, top_p=0.95),
    "top-k 50, top-p 0.95, penalty": SamplingSpec(0.8, 50, 0.95, repetition_penalty=1.1, repetition_window=64),
    "top-k 25, top-p 0.8, redraws": SamplingSpec(1.0, 25, 0.8, ras_window=10, ras_tau=0.1),
}
"""What models ask for: LLaSA a temperature, Spark-TTS top-k 50 and top-p 0.95, CosyVoice 2 the last."""


def make_bundle(config: dict[str, Any], folder: Path) -> None:
    """An int4 bundle with random weights, unless it is there."""
    if folder.exists():
        return
    write_checkpoint(folder.with_name("checkpoint"), config)
    folder.mkdir()
    options = DecoderOptions("int4", PREFIX, WINDOW, PREFIX + WINDOW)
    write_manifest(folder, export_decoder(Checkpoint.open(folder.with_name("checkpoint")), options, folder))


def perplexity(logits: np.ndarray) -> float:
    """Of the distribution that `logits` [n,V] make, the mean over n in nats, raised."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return float(np.exp(-(shares * np.log(shares)).sum(-1).mean()))


def measure(folder: Path, threads: int, steps: int) -> tuple[float, dict[tuple[str, str], float], dict[str, float]]:
    """Median seconds of a step, and of a draw by spread and rule; the perplexity of each spread."""
    stream = Stream(load_bundle(folder, threads))
    count = len(stream.prefill(range(PREFIX // 2)))
    random, ids = np.random.default_rng(0), np.arange(count)
    logits = {name: random.normal(0, spread, (8, count)).astype(np.float32) for name, spread in SPREADS.items()}
    samplers = {(s, r): Sampler(rule, ids, (count - 1,), 0, 0) for s in SPREADS for r, rule in RULES.items()}
    taken, draws = list[float](), {key: list[float]() for key in samplers}
    for step in range(steps):
        start = time.perf_counter()
        stream.step(step)
        taken.append(time.perf_counter() - start)
        for key, sampler in samplers.items():
            scores = logits[key[0]][step % 8]
            start = time.perf_counter()
            sampler.draw(scores)
            draws[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(seconds) for key, seconds in draws.items()}
    return statistics.median(taken), medians, {name: perplexity(of) for name, of in logits.items()}


def report(step: float, draws: dict[tuple[str, str], float], perplexities: dict[str, float]) -> bool:
    """Print a Markdown table; True where the gate is met."""
    said = ", ".join(f"{name} logits have a perplexity of {value:.0f}" for name, value in perplexities.items())
    print(f"step {1e3 * step:.2f} ms; {said}\n")
    print("| rule | decided, ms | of the step | flat, ms | of the step |\n|---|---|---|---|---|")
    for rule in RULES:
        cells = [f"{1e3 * draws[spread, rule]:.2f} | {draws[spread, rule] / step:.1%}" for spread in SPREADS]
        print(f"| {rule} | {' | '.join(cells)} |")
    slow = [rule for rule in RULES if draws["decided", rule] > SHARE * step]
    print(f"{'MISS' if slow else 'ok  '} draws over {SHARE:.0%} of the step {slow}")
    return not slow


def main(argv: Sequence[str] | None = None, config: dict[str, Any] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps timed, 0 only makes the bundle (default: 100)")
    parser.add_argument("--folder", type=Path, help="keep the bundle here")
    args = parser.parse_args(argv)
    with kept_folder(args.folder) as folder:
        make_bundle(config or CONFIG | {"vocab_size": LOGITS}, folder / "bundle")
        return 0 if not args.steps or report(*measure(folder / "bundle", args.threads, args.steps)) else 1


if __name__ == "__main__":
    sys.exit(main())
