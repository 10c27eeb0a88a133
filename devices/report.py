"""The report of `sottovoce profile`: plain dataclasses, written as JSON and read back strictly.

Published as JSON Schema in `devices/profile.schema.json`; `SCHEMA` rises whenever the meaning of a field changes.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sottovoce.devices.limit import Limit
from sottovoce.devices.machine import Machine
from sottovoce.devices.readings import Operator, Sample, Stage, Utterance
from sottovoce.errors import BundleError
from sottovoce.runtime.parse import parse
from sottovoce.runtime.strict_json import read_json

SCHEMA = 3
"""Version of the report."""


@dataclass(frozen=True)
class MemorySplit:
    """Bytes. `peak` = `weights` (the .onnx and .data files of decoder and codec) + `cache` (by the manifest) + `rest`.

    `resident` and `proportional` (PSS) were read at the end; `mapped` is the part of `resident` in the bundle's files.
    `slope` is by how much the process grew with each utterance but the first (least squares; None of fewer than 3).
    """

    peak: int
    resident: int
    proportional: int | None
    mapped: int | None
    weights: int
    cache: int
    rest: int
    slope: float | None


@dataclass(frozen=True)
class MemoryTerms:
    """What the process held at the end of the last utterance, bytes; each term is measured by itself.

    `weights_mapped`: pages of the bundle's files; `weights_anonymous`: copied or packed by the engine, by its own
    account; `cache`: pages written to; `arena`: what the engine's arena grew to, at most what memory grew by;
    `graphs`: what opening them took besides; `text`: the text front end; `interpreter`: Python and its modules;
    `libraries`: pages of all other files. `total` is what the system counts, `unexplained` what it counts beyond the
    sum.
    """

    weights_mapped: int
    weights_anonymous: int
    cache: int
    arena: int
    graphs: int
    text: int
    interpreter: int
    libraries: int
    unexplained: int
    total: int


@dataclass(frozen=True)
class Timing:
    """Seconds. `first_ttfa` is of the first utterance after loading, `ttfa` and `rtf` medians of those that followed.

    `rtf` and `audio` (median length) are None for a decoder alone, whose `ttfa` is its prefill. All four are None where
    the voice stopped before it made a sound. `tokens_per_second` are the decoder's, `runs_per_second` runs of graphs
    for each second of speech.
    """

    load: dict[str, float]
    reload: dict[str, float]
    first_ttfa: float | None
    ttfa: float | None
    rtf: float | None
    audio: float | None
    step_p50: float | None
    step_p95: float | None
    tokens_per_second: float | None
    runs_per_second: float | None


@dataclass(frozen=True)
class Spread:
    """Seconds of a number of runs."""

    count: int
    p50: float
    p95: float
    max: float


@dataclass(frozen=True)
class StageTime:
    """One stage of speaking: `cold` in the first utterance, `warm` in those after it; None where it did not happen."""

    name: str
    cold: Spread | None
    warm: Spread | None


@dataclass(frozen=True)
class Health:
    """The machine under the run, None where it does not tell: frequency (Hz), temperature (°C), energy (J).

    `throttled`: it was slowed down to cool it, or its frequency fell by a tenth.
    """

    frequency_first: float | None
    frequency_last: float | None
    temperature_first: float | None
    temperature_max: float | None
    joules: float | None
    throttled: bool | None


@dataclass(frozen=True)
class Profile:
    """The report; `target` is the machine as it was asked for, `processors` those that its threads were kept on.

    `step_bytes` is what a step of the decoder reads halfway through a sentence: its weights and the slots in use.
    """

    schema: int
    target: str
    bundle: str
    weights: str
    cache: str
    text: str | None
    threads: int
    processors: tuple[int, ...]
    runs: int
    step_bytes: int
    memory: MemorySplit
    terms: MemoryTerms | None
    timing: Timing
    times: tuple[StageTime, ...]
    health: Health
    limit: Limit | None
    stages: tuple[Stage, ...]
    utterances: tuple[Utterance, ...]
    operators: tuple[Operator, ...]
    samples: tuple[Sample, ...]
    machine: Machine

    def to_json(self) -> str:
        """The report as a JSON file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_profile(path: Path) -> Profile:
    """A report written by `sottovoce profile -o`; raises BundleError where it is malformed or of another version."""
    value = read_json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise BundleError(f"{path}: expected a profile of schema {SCHEMA}, found {str(schema)[:20]}: profile again")
    profile: Profile = parse(Profile, value, str(path))
    return profile
