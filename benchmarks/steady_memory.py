"""Does memory grow from utterance to utterance? `python -m benchmarks.steady_memory [BUNDLE]`

Speaks 1000 utterances of different texts and seeds in this process, reads resident + swapped memory after each, and
fits a line to those after the warm-up. The slope's 95 % interval comes from a moving-block bootstrap of the residuals,
since memory moves in steps and neighbouring readings are not independent. A slope above zero in both halves is a leak,
however small; one that is gone in the second half was warm-up.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sottovoce.devices.machine import describe_machine
from sottovoce.devices.memory import read_memory
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import speak

TEXTS = (
    "Yes.",
    "The birch canoe slid on the smooth planks.",
    "Please call me tomorrow at half past nine, and bring the blue folder with you.",
)
"""Short, middling and long: used in turn, so that buffers of every size come and go."""

WARM_UP = 0.2
"""Share of the utterances left out at the start, while allocators fill their pools."""

BLOCK = 10
"""Readings per bootstrap block."""

RESOLUTION = 0.1
"""MB that are no growth in either half: Linux adds pages up in batches per processor."""

CEILING = 1.0
"""MB per 100 utterances; an interval that reaches beyond it has decided nothing."""


def main() -> int:
    """Measure, print slope and verdict; exit status 1 where memory grows or the run was too noisy to tell."""
    parser = argparse.ArgumentParser(description="Memory of a bundle over many utterances.")
    parser.add_argument("bundle", type=Path, nargs="?", help="bundle folder (default: the reference voice, int8)")
    parser.add_argument("--utterances", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads per graph (default: %(default)s)")
    args = parser.parse_args()
    if args.utterances < 10 * BLOCK:
        parser.error(f"--utterances {args.utterances}: at least {10 * BLOCK} are needed for an interval")
    with tempfile.TemporaryDirectory() as folder:
        bundle = args.bundle or export_reference(Path(folder) / "reference")
        readings = measure(bundle, args.utterances, args.threads)
    slope, low, high = slope_interval(readings)
    said = verdict(readings)
    print(f"{bundle}: resident {readings[0]:.1f} MB at first, {readings[-1]:.1f} MB after {len(readings)} more")
    print(f"slope {slope:+.3f} MB per 100 utterances, 95 % interval {low:+.3f} to {high:+.3f}: {said}")
    print(f"{describe_machine().processor}, {args.threads} thread(s)")
    return 0 if said.startswith("within noise") else 1


def export_reference(target: Path, weights: str = "int8", cache: str = "fp32") -> Path:
    """The committed voice as a bundle, made in a process of its own."""
    command = [sys.executable, "-m", "sottovoce", "export", "voices/reference", "-o", str(target)]
    command += ["--weights", weights, "--cache", cache, "--threads", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def measure(folder: Path, utterances: int, threads: int) -> NDArray[np.float64]:
    """Resident + swapped MB after each utterance, the warm-up left out."""
    bundle = load_bundle(folder, threads)
    readings = []
    for number in range(utterances):
        speak(bundle, TEXTS[number % len(TEXTS)], find_prompt(bundle, None), seed=number).whole()
        memory = read_memory()
        readings.append((memory.resident + memory.swapped) / 1e6)
    return np.array(readings[int(WARM_UP * utterances) :])


def slope_interval(readings: NDArray[np.float64], draws: int = 2000) -> tuple[float, float, float]:
    """Slope of the fitted line and its 95 % interval, MB per 100 utterances."""
    count = len(readings)
    turn = np.arange(count) / 100
    slope, level = np.polyfit(turn, readings, 1)
    fitted = level + slope * turn
    residuals = readings - fitted
    random = np.random.default_rng(0)
    starts = random.integers(0, count - BLOCK + 1, (draws, -(-count // BLOCK)))
    picked = (starts[:, :, None] + np.arange(BLOCK)).reshape(draws, -1)[:, :count]
    slopes = np.polyfit(turn, (fitted + residuals[picked]).T, 1)[0]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(slope), float(low), float(high)


def verdict(readings: NDArray[np.float64]) -> str:
    """`grows` where both halves do, `undecided` where too much growth cannot be ruled out, else `within noise`.

    Growth that goes on is a leak; growth that the second half no longer shows was pools being filled.
    """
    first, second = np.array_split(readings, 2)
    if grows(first) and grows(second):
        return "grows"
    if slope_interval(second)[2] > CEILING:
        return "undecided, run more utterances on a quiet machine"
    return "within noise (still warming up at first)" if grows(first) else "within noise"


def grows(readings: NDArray[np.float64]) -> bool:
    """Whether the slope is surely above zero, and the fitted line climbs by more than RESOLUTION."""
    slope, low, _ = slope_interval(readings)
    return low > 0 and slope * len(readings) / 100 > RESOLUTION


if __name__ == "__main__":
    sys.exit(main())
