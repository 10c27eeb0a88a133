"""The measured process: loads a bundle, speaks, and prints what it cost as JSON. Started fresh by `supervise.py`.

    python -m sottovoce.devices.worker '{"bundle": "voice.bundle", "text": "Hello.", "runs": 5, "threads": 1}'

Every stage is told on stdout when it begins, so that who watches knows where a process was when it was killed. Imports
come late and are a stage of their own: the first reading shows a bare interpreter.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sottovoce.devices.affinity import pin_threads
from sottovoce.devices.memory import page_faults, read_mappings, read_memory
from sottovoce.devices.readings import Job, Result, Stage
from sottovoce.errors import SottovoceError


class Measurement:
    """A result as it comes about in this process."""

    def __init__(self, folder: Path) -> None:
        """Of the bundle in `folder`, nothing yet."""
        self.folder = folder
        self.result = Result()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as stage `name` and read the memory after it."""
        print(json.dumps({"stage": name}), flush=True)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        stage = Stage(name, seconds, read_memory(), read_mappings(self.folder), page_faults(), time.monotonic())
        self.result.stages.append(stage)


def measure(job: Job) -> Result:
    """Do `job` in this process. Raises what loading and speaking raise."""
    measurement = Measurement(Path(job.bundle))
    result, stage = measurement.result, measurement.stage
    with stage("interpreter"):
        pass
    with stage("imports"):
        from sottovoce.devices.graphs import Graphs
        from sottovoce.devices.utterance import Speaker
        from sottovoce.runtime.bundle import load_bundle
        from sottovoce.runtime.session import thread_count
    result.threads = thread_count(job.threads)
    result.processors = pin_threads(result.threads)
    graphs = Graphs(measurement.folder)
    with stage("load"):
        bundle = load_bundle(job.bundle, result.threads, open_graph=graphs.open)
    result.load, result.graphs = dict(bundle.load_seconds), graphs.opened
    speaker = Speaker(bundle, graphs, job.text, job.temperature)
    with stage("first utterance"):
        result.utterances.append(speaker.utter(0))
    with stage("steady"):
        result.utterances += [speaker.utter(seed) for seed in range(1, job.runs + 1)]
    result.cache_touched, result.held = speaker.cache_touched, speaker.held
    print(json.dumps({"stage": "load again"}), flush=True)
    del bundle, speaker, graphs
    result.reload = dict(load_bundle(job.bundle, result.threads).load_seconds)
    return result


def main() -> int:
    """Measure the job in argv[1]; print the result, or the error by class name, as one line of JSON."""
    try:
        value = {"result": asdict(measure(Job(**json.loads(sys.argv[1]))))}
    except SottovoceError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return 2
    print(json.dumps(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
