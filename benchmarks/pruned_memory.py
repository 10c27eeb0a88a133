"""Peak memory of CosyVoice 2 and LLaSA-1B shapes at full and half depth, from int8 bundles (SPADE, arXiv 2509.20802).

    python -m benchmarks.pruned_memory [--model NAME]

Random weights, a head of the speech tokens alone, ten seconds of speech in the cache. Each bundle runs in a process of
its own. No gate: the paper's figures are of a GPU that holds codec and activations too.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import write_checkpoint
from benchmarks.pruned import FULL, HALF, halve
from benchmarks.pruned_parameters import MODELS, count
from benchmarks.shape05b import MEGABYTE
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import MemorySplit
from sottovoce.export.assemble import export_bundle
from sottovoce.export.plan import Request
from sottovoce.runtime.table import columns

HEADER = ("", "depth", "parameters, M", "decoder on disk, MB", "cache, MB", "peak, MB")


@dataclass(frozen=True)
class Setting:
    """HF `config`, token ids of its `speech`, P conditioning slots and W of the window."""

    config: dict[str, Any]
    speech: tuple[int, int]
    prefix: int
    window: int


SETTINGS = {
    "CosyVoice 2": Setting(MODELS["CosyVoice 2"][0], (151_936, 158_500), 187, 250),
    # XCodec2's codes and the marks around them follow Llama's own 128,256 tokens; 50 of them make a second.
    "LLaSA-1B": Setting(MODELS["LLaSA-1B"][0], (128_256, 193_800), 256, 500),
}


def measure(setting: Setting, folder: Path) -> dict[str, MemorySplit]:
    """What a process that only runs the decoder takes, at each depth."""
    write_checkpoint(folder / FULL, setting.config)
    halve(folder / FULL, range(0, setting.config["num_hidden_layers"], 2), folder / HALF)
    request = Request("int8", setting.window, setting.prefix, decoder_only=True, head_ids=(setting.speech,))
    found = {}
    for depth in (FULL, HALF):
        bundle = folder / f"{depth}-bundle"
        export_bundle(folder / depth, bundle, request)
        found[depth] = profile_bundle(bundle, runs=1, threads=1).memory
    return found


def lines(name: str, setting: Setting, found: dict[str, MemorySplit]) -> list[tuple[str, ...]]:
    """Rows of the table: both depths, and what half of them saves."""
    counted = count(setting.config)
    parameters = {FULL: counted.whole, HALF: counted.half}
    sizes = {
        depth: [parameters[depth], *((getattr(found[depth], part)) for part in ("weights", "cache", "peak"))]
        for depth in found
    }
    cuts = [f"{100 * (half / full - 1):+.1f} %" for full, half in zip(sizes[FULL], sizes[HALF], strict=True)]
    rows = [(name, depth, *(f"{size / MEGABYTE:.1f}" for size in sizes[depth])) for depth in (FULL, HALF)]
    return [*rows, ("", "", *cuts)]


def main(argv: Sequence[str] | None = None, settings: dict[str, Setting] | None = None) -> int:
    """Measure and print."""
    settings = settings or SETTINGS
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=settings, help="this one alone")
    args = parser.parse_args(argv)
    rows: list[tuple[str, ...]] = [HEADER]
    for name in [args.model] if args.model else settings:
        with tempfile.TemporaryDirectory() as folder:
            rows += lines(name, settings[name], measure(settings[name], Path(folder)))
    print(columns(rows, indent=""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
