"""Patches of four tokens on a Qwen2-0.5B shape beside the same backbone unpatched: time per token, caches, memory.

    python -m benchmarks.patch                     int8 and int4, each with its gate
    python -m benchmarks.patch --weights fp32      any other format, for comparison
    python -m benchmarks.patch --extractor 2       with a shallower extractor than the paper's

Weights are random; compressor and extractor have the sizes of the paper (TLDR, arXiv 2606.09019, table 7). Both graphs
run through the runtime's own sources, sampling included, on one thread, in turns: k steps of the one, then a step of
the other, in processes without torch, as a user's is; where memory comes to lie differs from one to the next. The codec
is left out on both sides. A run of the patched one that draws its first token alone tells what each further one costs.
Then it runs in processes of its own, whose runs draw one token and four: the weights of the k steps are packed once
where the peaks are the same. Prints a line per gate; exit status 1 where one is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.checkpoints import write_checkpoint, write_manifest
from benchmarks.patch_source import PREFIX, PROMPT, Turns
from benchmarks.shape05b import CONFIG, MEGABYTE
from sottovoce.export.decoder import DecoderOptions, export_decoder
from sottovoce.export.head import speech_ranges
from sottovoce.export.patch_graph import PatchOptions, export_patches
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.patch.config import PatchConfig, StackConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.bundle import load_bundle

RATIOS = {"int8": 2.3, "int4": 2.6}
"""Gates: time per token unpatched over patched, by the format of the weights."""

CACHE, SPREAD = 0.26, 1.03
"""Gates: slots of twelve seconds, patched over unpatched; peak drawing k tokens a run over the peak drawing one."""

PLAIN, PATCHED = "plain", "patched"


@dataclass(frozen=True)
class Setting:
    """What is run: HF `config`, the nets around it, and in each of so many `processes` the `tokens` of an utterance."""

    config: dict[str, Any]
    patches: PatchConfig
    tokens: int = 300
    processes: int = 7


PAPER = Setting(CONFIG, PatchConfig(4, StackConfig(1, 8, 112, 4, 3584), StackConfig(4, 8, 112, 4, 3584)))


def make_bundles(setting: Setting, weights: str, folder: Path) -> dict[str, Path]:
    """Both bundles with full windows, as export lays them out; random weights have nothing to be verified by."""
    if not (folder / "model.safetensors").exists():
        write_checkpoint(folder, setting.config)
    checkpoint, size = Checkpoint.open(folder), setting.patches.patch
    steps = -(-setting.tokens // size)
    made = {kind: folder / f"{kind}-{weights}" for kind in (PLAIN, PATCHED)}
    for path in made.values():
        path.mkdir()
    slots, window = len(PREFIX), setting.tokens + 1
    options = DecoderOptions(weights, slots, window, slots + window, speech_ranges(PROMPT))  # type: ignore[arg-type]
    write_manifest(made[PLAIN], export_decoder(checkpoint, options, made[PLAIN]))
    slots -= 75 - -(-75 // size)
    sizes = slots, steps + 1, PROMPT.max_prompt_codes, len(PREFIX) + (steps + 1) * size
    decoder = PatchDecoder(checkpoint.load(), setting.patches, PROMPT)
    parts = export_patches(decoder, PROMPT, PatchOptions(weights, *sizes), made[PATCHED])  # type: ignore[arg-type]
    write_manifest(made[PATCHED], parts)
    return made


@dataclass(frozen=True)
class Found:
    """`Turns` of each process; slots of the ring, bytes of all caches, on disk, and read for a token (a step reads all
    that is on disk), of them those read again for a further token; peaks by tokens that a run draws."""

    turns: list[Turns]
    slots: dict[str, int]
    cache: dict[str, int]
    disk: dict[str, int]
    read: dict[str, float]
    further: int
    peaks: dict[int, int]


def measure(setting: Setting, weights: str, folder: Path) -> Found:
    """Both kinds in turns; then the peaks."""
    paths, size = make_bundles(setting, weights, folder), setting.patches.patch
    turns = [_alone("turns", *paths.values(), setting.tokens) for _ in range(setting.processes)]
    manifests = {kind: load_bundle(path, threads=1, verify_hashes=False).manifest for kind, path in paths.items()}
    disk = {kind: sum(entry.size for entry in manifest.files.values()) for kind, manifest in manifests.items()}
    spec = manifests[PATCHED].patch
    assert spec is not None
    return Found(
        [Turns(**each) for each in turns],
        {kind: manifest.cache.groups[0].window for kind, manifest in manifests.items()},
        {kind: manifest.cache.bytes for kind, manifest in manifests.items()},
        disk,
        {PLAIN: float(disk[PLAIN]), PATCHED: (disk[PATCHED] + (size - 1) * spec.token_bytes) / size},
        spec.token_bytes,
        {draws: _alone("peak", paths[PATCHED], draws, setting.tokens // size) for draws in (1, size)},
    )


def _alone(*arguments: object) -> Any:
    """What `benchmarks/patch_source.py` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.patch_source", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def report(weights: str, found: Found, size: int) -> bool:
    """Print what was found and a line for each gate; True where all are met."""
    _print_sizes(weights, found)
    _print_times(found, size)
    lowest, ratio = RATIOS.get(weights, 0.0), median([turns.plain / turns.patched for turns in found.turns])
    slots, spread = found.slots[PATCHED] / found.slots[PLAIN], found.peaks[size] / found.peaks[1]
    calls = max(turns.calls for turns in found.turns)
    gates = [
        (f"time per token, plain / patched, {weights}", ratio, "at least", lowest, ratio >= lowest),
        ("slots of what is said, patched / plain", slots, "at most", CACHE, slots <= CACHE),
        ("runs of the graph per patch", calls, "exactly", 1.0, calls == 1),
        (f"peak drawing {size} a run / 1 a run", spread, "at most", SPREAD, spread <= SPREAD),
    ]
    for name, value, how, limit, met in gates:
        print(f"{'ok  ' if met else 'MISS'} {name}: {value:.3f} ({how} {limit:g})")
    return all(met for *_, met in gates)


def _print_sizes(weights: str, found: Found) -> None:
    """What lies on disk, is read and is held."""
    for kind in (PLAIN, PATCHED):
        disk, read = found.disk[kind] / MEGABYTE, found.read[kind] / MEGABYTE
        print(
            f"  {weights} {kind}: cache {found.cache[kind] / MEGABYTE:.2f} MB, on disk {disk:.1f} MB, "
            f"of which a token reads {read:.1f} MB"
        )
    print(f"  bytes read, plain / patched: {found.read[PLAIN] / found.read[PATCHED]:.2f}")
    print("  peaks: " + ", ".join(f"{k} a run {peak / MEGABYTE:.1f} MB" for k, peak in found.peaks.items()))
    print(
        f"  all caches, prefix and compressor too: {found.cache[PATCHED] / found.cache[PLAIN]:.3f} of the plain one's"
    )


def _print_times(found: Found, size: int) -> None:
    """Where the time goes, and how fast what is read then is read; medians of the processes, and their ratios."""
    rows = {
        "a step of the plain one": (median([turns.plain for turns in found.turns]) / size, found.disk[PLAIN]),
        "a run that draws one token": (median([turns.first for turns in found.turns]), found.disk[PATCHED]),
        "each further token of a run": (
            median([(turns.patched - turns.first) / (size - 1) for turns in found.turns]),
            found.further,
        ),
    }
    for name, (seconds, read) in rows.items():
        print(f"  {name}: {1e3 * seconds:.2f} ms, {read / MEGABYTE:.1f} MB, {read / seconds / 1e9:.1f} GB/s")
    print(f"  a token of a patch: {1e3 * median([turns.patched for turns in found.turns]) / size:.2f} ms")
    ratios = sorted(turns.plain / turns.patched for turns in found.turns)
    print("  plain / patched, by process: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))


def main(argv: Sequence[str] | None = None, setting: Setting = PAPER) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--weights", nargs="+", default=list(RATIOS), help="formats, each measured by itself (default: %(default)s)"
    )
    parser.add_argument(
        "--extractor", type=int, metavar="N", help="layers of the extractor (default: the paper's four)"
    )
    parser.add_argument("--json", type=Path, help="write what was found here too")
    args = parser.parse_args(argv)
    if args.extractor is not None:
        depth = replace(setting.patches.extractor_layers, layers=args.extractor)
        setting = replace(setting, patches=replace(setting.patches, extractor_layers=depth))
    with tempfile.TemporaryDirectory() as folder:
        found = {weights: measure(setting, weights, Path(folder)) for weights in args.weights}
    if args.json:
        args.json.write_text(json.dumps({name: asdict(each) for name, each in found.items()}, indent=1) + "\n")
    met = [report(weights, each, setting.patches.patch) for weights, each in found.items()]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
