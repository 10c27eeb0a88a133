"""A bundle on this machine: memory by stage, time to first audio, real-time factor, step times.

Measured in a fresh process (`worker.py`), so that nothing the caller holds counts.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sottovoce import errors
from sottovoce.devices.machine import Machine, describe_machine
from sottovoce.devices.worker import Job, Result, Stage, Utterance
from sottovoce.errors import BundleError, OptionError, SottovoceError
from sottovoce.runtime.manifest import Manifest, parse, read_manifest
from sottovoce.runtime.strict_json import read_json

SCHEMA = 1
"""Version of the report."""

TEXT = "Please call me tomorrow at half past nine, and bring the blue folder with you."
"""What is spoken unless the caller says otherwise: about five seconds."""


@dataclass(frozen=True)
class MemorySplit:
    """Bytes. `peak` = `weights` (the .onnx and .data files of decoder and codec) + `cache` (by the manifest) + `rest`.

    `resident` and `proportional` (PSS) were read at the end; `mapped` is the part of `resident` in the bundle's files.
    """

    peak: int
    resident: int
    proportional: int | None
    mapped: int | None
    weights: int
    cache: int
    rest: int


@dataclass(frozen=True)
class Timing:
    """Seconds. `first_ttfa` is of the first utterance after loading, `ttfa` and `rtf` medians of those that followed.

    `rtf` and `audio` (median length) are None for a decoder alone, whose `ttfa` is its prefill. All four are None where
    the voice stopped before it made a sound.
    """

    load: dict[str, float]
    first_ttfa: float | None
    ttfa: float | None
    rtf: float | None
    audio: float | None
    step_p50: float | None
    step_p95: float | None


@dataclass(frozen=True)
class Profile:
    """The report of `sottovoce profile`."""

    schema: int
    bundle: str
    weights: str
    cache: str
    text: str | None
    threads: int
    runs: int
    memory: MemorySplit
    timing: Timing
    stages: tuple[Stage, ...]
    machine: Machine

    def to_json(self) -> str:
        """The report as a JSON file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def profile_bundle(folder: Path, text: str | None = None, runs: int = 5, threads: int | None = None) -> Profile:
    """Measure the bundle in `folder` over one utterance of `text` (TEXT by default) and `runs` more.

    Raises OptionError for no runs or for a text that a decoder alone cannot say, and what loading and speaking raise.
    """
    if runs < 1:
        raise OptionError(f"--runs {runs}: at least 1 is needed")
    manifest = read_manifest(folder)
    if manifest.codec is None and text is not None:
        raise OptionError(f"--text: {folder} holds a decoder only and cannot speak, leave it out")
    text = TEXT if text is None else text
    result = run_worker(Job(str(folder), text, runs, threads))
    group = manifest.cache.groups[0]
    return Profile(
        schema=SCHEMA,
        bundle=folder.resolve().name,
        weights=manifest.weights.layers,
        cache=f"{group.prefix} + {group.window} slots, {group.dtype}",
        text=text if manifest.codec else None,
        threads=result.threads,
        runs=runs,
        memory=split_memory(result, manifest),
        timing=summarise(result.utterances, result.load),
        stages=tuple(result.stages),
        machine=describe_machine(),
    )


def run_worker(job: Job) -> Result:
    """`job` in a fresh process of this interpreter; raises the error that the worker met."""
    command = [sys.executable, "-m", "sottovoce.devices.worker", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        value = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BundleError(f"measuring {job.bundle} ended with status {done.returncode}: {said}") from None
    if "error" in value:
        raise _error(value["error"], value["message"])
    result: Result = parse(Result, value, "worker")
    return result


def _error(name: str, message: str) -> SottovoceError:
    """The package's error called `name`."""
    if name == "MissingExtraError":  # made of a module and an extra, which its message already holds
        return SottovoceError(message)
    kind: type[SottovoceError] = getattr(errors, name)
    return kind(message)


def split_memory(result: Result, manifest: Manifest) -> MemorySplit:
    """The peak of the whole process, and what it is made of."""
    last = result.stages[-1].memory
    peak = max(stage.memory.peak for stage in result.stages)
    weights = weight_bytes(manifest)
    return MemorySplit(
        peak=peak,
        resident=last.resident + last.swapped,
        proportional=last.proportional,
        mapped=result.mapped,
        weights=weights,
        cache=manifest.cache.bytes,
        rest=peak - weights - manifest.cache.bytes,
    )


def weight_bytes(manifest: Manifest) -> int:
    """Weights on disk: every .onnx and .data file of the bundle."""
    return sum(entry.size for name, entry in manifest.files.items() if name.endswith((".onnx", ".data")))


def summarise(utterances: list[Utterance], load: Mapping[str, float]) -> Timing:
    """Medians over all utterances but the first, which is reported by its own TTFA."""
    first, *others = utterances
    steps = sorted(second for utterance in others for second in utterance.steps)
    first_sounds = [u.ttfa for u in others if u.ttfa is not None]
    spoken = [(u.busy / u.audio, u.audio) for u in others if u.audio]
    return Timing(
        load=dict(load),
        first_ttfa=first.ttfa,
        ttfa=statistics.median(first_sounds) if first_sounds else None,
        rtf=statistics.median(rtf for rtf, _ in spoken) if spoken else None,
        audio=statistics.median(audio for _, audio in spoken) if spoken else None,
        step_p50=quantile(steps, 0.50),
        step_p95=quantile(steps, 0.95),
    )


def quantile(ordered: list[float], share: float) -> float | None:
    """The value below which `share` of the ascending `ordered` lies (nearest rank); None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def read_profile(path: Path) -> Profile:
    """A report written by `sottovoce profile -o`; raises BundleError where it is malformed."""
    profile: Profile = parse(Profile, read_json(path), str(path))
    return profile
