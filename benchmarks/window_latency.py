"""Time per step over 700 generated tokens in a Qwen2-0.5B shape: a window beside full attention, in one run.

    python -m benchmarks.window_latency [-o benchmarks/window_latency.png]

Three lines, their steps taken in turns so that noise falls on all of them: the window (W 32), full attention as the
runtime has it (`--window full`: buffers for the whole utterance, read as far as they are in use), and full attention
over a cache that grows, as most runtimes do and WAND's figure shows (arXiv 2604.08558). Gate: the window's 95th
percentile at the end over the one at the start, median of the runs. Draws the medians over runs; exit status 1 where
the gate is missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shape05b import CONFIG
from sottovoce.devices.machine import describe_machine
from sottovoce.export.assemble import export_bundle
from sottovoce.export.decoder import GRAPH
from sottovoce.export.drive import Driver
from sottovoce.export.plan import Request
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.output import check_output, written_whole

RATIO = 1.05
"""Gate: p95 of the last steps over p95 of the first ones, windowed."""

WINDOWED, FIXED, GROWING = "window", "full, fixed buffers", "full, growing"

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is run: HF `config`, P, W, `tokens` generated in each of `runs`, and `edge` steps at either end of a run.

    The first `skip` steps are left out of the start: buffers are touched for the first time there.
    """

    config: dict[str, object]
    prefix: int = 187
    window: int = 32
    tokens: int = 700
    runs: int = 5
    edge: int = 100
    skip: int = 10


def make_bundles(setting: Setting, folder: Path) -> tuple[Path, Path]:
    """Bundles with the window, and with room for every token, of one checkpoint with random weights."""
    write_checkpoint(folder / "checkpoint", setting.config)
    made = []
    for window in (setting.window, setting.tokens + 2):
        made.append(folder / f"window-{window}")
        export_bundle(folder / "checkpoint", made[-1], Request("int8", window, setting.prefix, decoder_only=True))
    return made[0], made[1]


class Growing:
    """Full attention over the slots that are filled, and no others: generated tokens follow the prefix slot by slot."""

    def __init__(self, bundle: Path) -> None:
        """Over the graph and the buffers of `bundle`, whose slots count as prefix but for two that stay empty."""
        group = load_bundle(bundle, threads=1).manifest.cache.groups[0]
        self._driver = Driver(bundle / GRAPH, replace(group, prefix=group.slots - 2, window=2))

    def prefill(self, ids: Sequence[int]) -> object:
        """Forget the last utterance and read the prefix."""
        self._driver.restart()
        return self._driver.prefill(list(ids))

    def step(self, token: int) -> object:
        """Feed one generated token."""
        return self._driver.prefill([token])


def measure(setting: Setting, folder: Path) -> dict[str, Seconds]:
    """Seconds of every step, [runs, tokens] for each line."""
    windowed, full = make_bundles(setting, folder)
    speakers: dict[str, Stream | Growing] = {
        WINDOWED: Stream(load_bundle(windowed, threads=1)),
        FIXED: Stream(load_bundle(full, threads=1)),
        GROWING: Growing(full),
    }
    seconds = {name: np.zeros((setting.runs, setting.tokens)) for name in speakers}
    for run in range(setting.runs):
        for speaker in speakers.values():
            speaker.prefill(range(setting.prefix))
        for token in range(setting.tokens):
            for name, speaker in speakers.items():
                seconds[name][run, token] = timed(speaker.step, token % 97)
    return seconds


def timed(step: Callable[[int], object], token: int) -> float:
    """Seconds that `step` takes."""
    start = time.perf_counter()
    step(token)
    return time.perf_counter() - start


def end_over_start(seconds: Seconds, setting: Setting) -> float:
    """p95 of the last `edge` steps over p95 of the first ones, median of the runs."""
    first, last = seconds[:, setting.skip : setting.skip + setting.edge], seconds[:, -setting.edge :]
    return float(np.median(np.percentile(last, 95, axis=1) / np.percentile(first, 95, axis=1)))


def report(seconds: dict[str, Seconds], setting: Setting) -> bool:
    """Print a line for each kind and the gate; True where it is met."""
    for name, times in seconds.items():
        medians = 1e3 * np.median(times, axis=0)
        early, late = (
            np.median(medians[setting.skip : setting.skip + setting.edge]),
            np.median(medians[-setting.edge :]),
        )
        print(
            f"  {name}: {early:.2f} ms at the start, {late:.2f} ms at the end; p95 {end_over_start(times, setting):.3f}"
        )
    ratio = end_over_start(seconds[WINDOWED], setting)
    print(f"{'ok  ' if ratio <= RATIO else 'MISS'} window, p95 end / start: {ratio:.3f} (at most {RATIO:g})")
    return ratio <= RATIO


def draw(seconds: dict[str, Seconds], setting: Setting, path: Path) -> None:
    """The median over runs of each step, as a PNG; OutputError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, times in seconds.items():
        axes.plot(1e3 * np.median(times, axis=0), label=name, linewidth=0.9)
    axes.set(xlabel="generated tokens", ylabel="ms per step", ylim=(0, None))
    axes.set_title(
        f"P {setting.prefix}, W {setting.window}, int8, one thread, {describe_machine().processor}", fontsize=9
    )
    axes.legend()
    with written_whole(path) as file:
        FigureCanvasAgg(figure).print_png(file)


def main(argv: Sequence[str] | None = None, setting: Setting | None = None) -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    picture = Path("benchmarks/window_latency.png")
    parser.add_argument("-o", "--output", type=Path, default=picture, help="the plot (default: %(default)s)")
    args = parser.parse_args(argv)
    check_output(args.output)
    setting = setting or Setting(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(setting, Path(folder))
    draw(seconds, setting, args.output)
    return 0 if report(seconds, setting) else 1


if __name__ == "__main__":
    sys.exit(main())
