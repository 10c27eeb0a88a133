"""A bundle on a machine: memory by stage, time to first audio, real-time factor, step times.

Measured in a fresh process (`worker.py`), so that nothing the caller holds counts.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from sottovoce import errors
from sottovoce.devices.fit import step_bytes
from sottovoce.devices.readings import Instruments, Job
from sottovoce.devices.report import SCHEMA, Profile
from sottovoce.devices.summary import health, memory_terms, split_memory, stage_times, summarise
from sottovoce.devices.supervise import REPORT, Observation, Order
from sottovoce.devices.targets.session import open_place
from sottovoce.devices.targets.target import Local, Target
from sottovoce.errors import OptionError, SottovoceError
from sottovoce.runtime.manifest import Manifest, read_manifest
from sottovoce.runtime.parse import parse

TEXT: Final = "Please call me tomorrow at half past nine, and bring the blue folder with you."
"""What is spoken unless the caller says otherwise: about five seconds."""


@dataclass(frozen=True)
class Where:
    """The machine to measure on, and how it is used.

    `python` is its interpreter, `wheels` a folder of wheels for it, `limit` bytes of memory to allow, `tell` hears what
    goes on.
    """

    target: Target = field(default_factory=Local)
    python: str | None = None
    wheels: Path | None = None
    limit: int | None = None
    tell: Callable[[str], None] = lambda _: None


def profile_bundle(
    folder: Path,
    text: str | None = None,
    runs: int = 5,
    threads: int | None = None,
    where: Where | None = None,
    temperature: float | None = None,
) -> Profile:
    """Measure the bundle in `folder` over one utterance of `text` (TEXT by default) and `runs` more.

    `where` names the machine (None: this one), `temperature` replaces the voice's. Raises OptionError for no runs or a
    text that a decoder alone cannot say, TargetError for a machine that cannot be used, FitError for a limit that is
    too small, and what loading and speaking raise.
    """
    if runs < 1:
        raise OptionError(f"--runs {runs}: at least 1 is needed")
    manifest = read_manifest(folder)
    if manifest.codec is None and text is not None:
        raise OptionError(f"--text: {folder} holds a decoder only and cannot speak, leave it out")
    text = TEXT if text is None else text
    where = where or Where()
    seen = observe(folder, Job(str(folder), text, runs, threads, temperature), where)
    return _report(folder, manifest, text if manifest.codec else None, where.target.name, seen)


def _report(folder: Path, manifest: Manifest, text: str | None, target: str, seen: Observation) -> Profile:
    """What was seen as a report."""
    result, instruments = seen.result, seen.instruments or Instruments(None, None, [])
    group = manifest.cache.groups[0]
    return Profile(
        schema=SCHEMA,
        target=target,
        bundle=folder.resolve().name,
        weights=manifest.weights.layers,
        cache=f"{group.prefix} + {group.window} slots, {group.dtype}",
        text=text,
        threads=result.threads,
        processors=tuple(result.processors),
        runs=len(result.utterances) - 1,
        step_bytes=step_bytes(manifest),
        memory=split_memory(result, manifest),
        terms=memory_terms(result, instruments),
        timing=summarise(result.utterances, result.load, result.reload),
        times=stage_times(result.utterances),
        health=health(seen.samples, seen.sensors, result.stages),
        limit=seen.limit,
        stages=tuple(result.stages),
        utterances=tuple(result.utterances),
        operators=tuple(instruments.operators),
        samples=tuple(seen.samples),
        machine=seen.machine,
    )


def observe(folder: Path, job: Job, where: Where) -> Observation:
    """`job` on the bundle in `folder`, in a fresh process `where` is told; raises the error that it met there."""
    with open_place(where.target, folder, where.python, where.wheels, where.tell) as place:
        order = Order(replace(job, bundle=place.bundle), place.folder, where.limit)
        place.run("sottovoce.devices.supervise", asdict(order), where.tell)
        value = json.loads(place.pull(REPORT))
    if "error" in value:
        raise _error(value["error"], value["message"])
    seen: Observation = parse(Observation, value, where.target.name)
    return seen


def _error(name: str, message: str) -> SottovoceError:
    """The package's error called `name`."""
    if name == "MissingExtraError":  # made of a module and an extra, which its message already holds
        return SottovoceError(message)
    kind: type[SottovoceError] = getattr(errors, name)
    return kind(message)
