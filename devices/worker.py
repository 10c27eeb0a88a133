"""The measured process: loads a bundle, speaks, and prints what it cost as JSON. Started fresh by `profile.py`.

    python -m sottovoce.devices.worker '{"bundle": "voice.bundle", "text": "Hello.", "runs": 5, "threads": 1}'

Imports come late and are a stage of their own, so that the first reading shows a bare interpreter.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sottovoce.devices.memory import Memory, mapped_bytes, read_memory
from sottovoce.errors import SottovoceError

if TYPE_CHECKING:
    from sottovoce.runtime.bundle import Bundle

DECODER_STEPS = 100
"""Steps that stand for an utterance of a bundle that cannot speak."""


@dataclass(frozen=True)
class Job:
    """What to measure: `runs` utterances after a first one, all of `text`, with `threads` threads."""

    bundle: str
    text: str
    runs: int
    threads: int | None


@dataclass(frozen=True)
class Stage:
    """One part of a process's life: how long it took, and its memory when it ended."""

    name: str
    seconds: float
    memory: Memory


@dataclass(frozen=True)
class Utterance:
    """One utterance in seconds; `ttfa` is None where none was made. Of a decoder alone it is the prefill."""

    busy: float
    ttfa: float | None
    audio: float | None
    steps: tuple[float, ...]


@dataclass
class Result:
    """Everything a measured process reports; `mapped` is the resident part of the bundle's mapped files, bytes."""

    threads: int = 0
    stages: list[Stage] = field(default_factory=list)
    utterances: list[Utterance] = field(default_factory=list)
    load: dict[str, float] = field(default_factory=dict)
    mapped: int | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as stage `name` and read the memory after it."""
        start = time.perf_counter()
        yield
        self.stages.append(Stage(name, time.perf_counter() - start, read_memory()))


def measure(job: Job) -> Result:
    """Do `job` in this process. Raises what loading and speaking raise."""
    result = Result()
    with result.stage("interpreter"):
        pass
    with result.stage("imports"):
        from sottovoce.runtime.bundle import load_bundle
        from sottovoce.runtime.speak import speak  # noqa: F401 - the import is what is measured
    with result.stage("load"):
        bundle = load_bundle(job.bundle, threads=job.threads)
    result.threads, result.load = bundle.threads, dict(bundle.load_seconds)
    with result.stage("first utterance"):
        result.utterances.append(utter(bundle, job.text, 0))
    with result.stage("steady"):
        result.utterances += [utter(bundle, job.text, seed) for seed in range(1, job.runs + 1)]
    result.mapped = mapped_bytes(Path(job.bundle))
    return result


def utter(bundle: "Bundle", text: str, seed: int) -> Utterance:
    """One utterance: `text` by the bundle's first speaker, or, by a decoder alone, DECODER_STEPS greedy steps."""
    if bundle.speaking is None:
        return _steps(bundle, seed)
    from sottovoce.runtime.prompt import find_prompt
    from sottovoce.runtime.speak import speak

    speech = speak(bundle, text, find_prompt(bundle, None), seed=seed)
    for _ in speech:
        pass
    stats = speech.stats()
    steps = tuple(second for sentence in stats.sentences for second in sentence.step_seconds)
    return Utterance(stats.busy_seconds, stats.ttfa_seconds, stats.audio_seconds, steps)


def _steps(bundle: "Bundle", seed: int) -> Utterance:
    """A prefix of random ids that fills every conditioning slot, then greedy steps."""
    import numpy as np

    from sottovoce.runtime.decode import Stream

    start = time.perf_counter()
    stream = Stream(bundle)
    prefix = np.random.default_rng(seed).choice(bundle.token_ids, stream.cache.prefix)
    logits = stream.prefill([int(token) for token in prefix])
    ttfa = time.perf_counter() - start
    seconds = []
    for _ in range(min(DECODER_STEPS, stream.max_position - stream.cache.prefix)):
        token = int(bundle.token_ids[int(np.argmax(logits))])
        before = time.perf_counter()
        logits = stream.step(token)
        seconds.append(time.perf_counter() - before)
    return Utterance(time.perf_counter() - start, ttfa, None, tuple(seconds))


def main() -> int:
    """Measure the job in argv[1]; print the result, or the error by class name, as one line of JSON."""
    try:
        value = asdict(measure(Job(**json.loads(sys.argv[1]))))
    except SottovoceError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return 2
    print(json.dumps(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
