"""Half the layers of a Qwen2-0.5B shape (24 → 12): time per step, real-time factor with the reference codec, memory.

    python -m benchmarks.pruned

Both decoders have random weights, the smaller one some layers of the larger, and are int8 bundles on one thread. Steps
are taken in turns, and so are utterances through the runtime's whole loop with the committed voice's text and codec.
Then each bundle runs in a process of its own, for its peak. Gate: the median step of the full depth over the one of
half. Exit status 1 where it is missed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shape05b import CONFIG, MEGABYTE
from benchmarks.steady_memory import export_reference
from sottovoce.compress.layers import keep_in_config, keep_layers
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import Profile
from sottovoce.export.assemble import export_bundle
from sottovoce.export.plan import Request
from sottovoce.models.checkpoint import CONFIG as FILE
from sottovoce.models.checkpoint import Checkpoint, save_weights
from sottovoce.runtime.bundle import Bundle, load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import speak

RATIO = 1.7
"""Gate: median step of the full depth over the one of half."""

FULL, HALF = "full", "half"

TEXT = "Please call me tomorrow at half past nine."

IDS = 64
"""Token ids that steps are fed in turn: what is said costs no time, only that something is."""

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is run: HF `config` of the full depth, `steps` in each of `runs`, and an utterance of each after them."""

    config: dict[str, Any]
    steps: int = 300
    runs: int = 5

    @property
    def kept(self) -> tuple[int, ...]:
        """Every other layer."""
        return tuple(range(0, self.config["num_hidden_layers"], 2))


@dataclass(frozen=True)
class Found:
    """Seconds of every step, [runs, steps], and real-time factors, [runs]; the profile of a process that only runs."""

    steps: Seconds
    rtf: Seconds
    profile: Profile


def make_bundles(setting: Setting, reference: Bundle, folder: Path) -> dict[str, Path]:
    """Bundles of both depths, with the head, the prefix and the full window of the `reference` voice."""
    write_checkpoint(folder / FULL, setting.config)
    halve(folder / FULL, setting.kept, folder / HALF)
    (group,) = reference.manifest.cache.groups
    head = reference.manifest.head.ids
    made = {}
    for depth in (FULL, HALF):
        made[depth] = folder / f"{depth}-bundle"
        request = Request("int8", group.window, group.prefix, decoder_only=True, head_ids=head)
        export_bundle(folder / depth, made[depth], request)
    return made


def halve(source: Path, kept: Sequence[int], target: Path) -> None:
    """The checkpoint `source` with the layers `kept` alone."""
    checkpoint = Checkpoint.open(source)
    save_weights(keep_layers(checkpoint.load(), kept), target)
    hf = keep_in_config(checkpoint.hf, checkpoint.config.traits, kept)
    (target / FILE).write_text(json.dumps(hf), encoding="utf-8")


def with_voice(decoder: Bundle, reference: Bundle) -> Bundle:
    """The graph of `decoder`, able to speak with text and codec of `reference`."""
    manifest = replace(decoder.manifest, max_new_tokens=reference.manifest.max_new_tokens)
    return replace(decoder, folder=reference.folder, manifest=manifest, speaking=reference.voice)


def measure(setting: Setting, reference: Path, folder: Path) -> dict[str, Found]:
    """Steps and utterances of both depths, in turns; `reference` is a bundle of the committed voice."""
    voice = load_bundle(reference, threads=1)
    paths = make_bundles(setting, voice, folder)
    bundles = {depth: with_voice(load_bundle(path, threads=1), voice) for depth, path in paths.items()}
    steps = {depth: np.zeros((setting.runs, setting.steps)) for depth in bundles}
    rtf = {depth: np.zeros(setting.runs) for depth in bundles}
    for run in range(setting.runs):
        streams = {depth: Stream(bundle) for depth, bundle in bundles.items()}
        for stream in streams.values():
            stream.prefill([i % IDS for i in range(stream.cache.prefix)])
        for number in range(setting.steps):
            for depth, stream in streams.items():
                start = time.perf_counter()
                stream.step(number % IDS)
                steps[depth][run, number] = time.perf_counter() - start
        for depth, bundle in bundles.items():
            rtf[depth][run] = spoken_rtf(bundle, run)
    return {depth: Found(steps[depth], rtf[depth], profile_bundle(paths[depth], runs=1, threads=1)) for depth in paths}


def spoken_rtf(bundle: Bundle, seed: int) -> float:
    """Seconds of work per second of audio, of one utterance."""
    speech = speak(bundle, TEXT, find_prompt(bundle, None), seed=seed)
    speech.whole()
    return speech.stats().rtf or float("nan")


def report(found: dict[str, Found]) -> bool:
    """Print a line for each depth, the ratios, and the gate; True where it is met."""
    for depth, each in found.items():
        memory = each.profile.memory
        print(
            f"  {depth}: step {1e3 * np.median(each.steps):.2f} ms, RTF with the codec {np.median(each.rtf):.3f}, "
            f"decoder on disk {memory.weights / MEGABYTE:.1f} MB, cache {memory.cache / MEGABYTE:.1f} MB, "
            f"peak {memory.peak / MEGABYTE:.1f} MB"
        )
    full, half = found[FULL], found[HALF]
    ratios = np.median(full.steps, axis=1) / np.median(half.steps, axis=1)
    whole, peak = np.median(full.rtf / half.rtf), half.profile.memory.peak / full.profile.memory.peak - 1
    print(f"  end to end, prefix and codec counted: {whole:.2f}× as fast; peak {100 * peak:+.1f} %")
    ratio = float(np.median(ratios))
    print(f"{'ok  ' if ratio >= RATIO else 'MISS'} step full / half, median of runs: {ratio:.2f} (at least {RATIO:g})")
    return ratio >= RATIO


def main(argv: Sequence[str] | None = None, setting: Setting | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="bundle of the reference voice (default: made now, int8)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = args.bundle or export_reference(folder / "reference")
        found = measure(setting or Setting(CONFIG), reference, folder)
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
