"""Runs on the target: starts the measured process, watches it, and ends it when whoever asked for it is gone.

    python -m sottovoce.devices.supervise     # stdin: an `Order` as a line of JSON, then held open

Tells the stages as they begin, a line each, and leaves `report.json` in the folder: an `Observation`, or the error that
the worker met.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from sottovoce.devices.limit import Limit, drop_files, limited
from sottovoce.devices.machine import Machine, describe_machine
from sottovoce.devices.readings import Instruments, Job, Result, Sample
from sottovoce.devices.sampler import Sampler
from sottovoce.devices.sensors import Sensors, read_sensors
from sottovoce.runtime.parse import parse
from sottovoce.runtime.table import size_text

REPORT: Final = "report.json"
"""What the folder of a run holds afterwards."""


@dataclass(frozen=True)
class Order:
    """A job, the folder that takes the report, and bytes of memory to allow the job (None: all there is)."""

    job: Job
    folder: str
    limit: int | None = None


@dataclass(frozen=True)
class Observation:
    """A job done: what the worker reports, what was seen from outside; `sensors` are from before and after."""

    result: Result
    instruments: Instruments | None
    samples: list[Sample]
    sensors: tuple[Sensors, Sensors]
    limit: Limit | None
    machine: Machine


def supervise(order: Order) -> dict[str, Any]:
    """An `Observation` as JSON values, or `{"error": class, "message": …}`."""
    drop_files(Path(order.job.bundle))
    before = read_sensors()
    with limited(order.limit) if order.limit else nullcontext() as group:
        value, status, stage, samples = _work(order, group.command if group else list)
        limit = group.result(order.limit) if group and order.limit else None
    if limit and (limit.killed or "error" in value) and "result" not in value:
        return {"error": "FitError", "message": _too_large(order, limit, stage, samples, value)}
    if "result" not in value:
        return value if "error" in value else {"error": "BundleError", "message": _ended(order, status, stage, value)}
    return {
        "result": value["result"],
        "instruments": _instruments(order),
        "samples": [asdict(sample) for sample in samples],
        "sensors": [asdict(before), asdict(read_sensors())],
        "limit": asdict(limit) if limit else None,
        "machine": asdict(describe_machine()),
    }


def _work(order: Order, wrap: Any) -> tuple[dict[str, Any], int, str, list[Sample]]:
    """The worker's last word, its exit status, the last stage it began, and the samples taken of it."""
    value: dict[str, Any] = {}
    stage = "start"
    words = [sys.executable, "-m", "sottovoce.devices.worker", json.dumps(asdict(order.job))]
    with (Path(order.folder) / "worker.txt").open("w+b") as said:
        with _running(wrap(words), said) as worker, Sampler(worker.pid) as sampler:
            for line in worker.stdout or ():
                with contextlib.suppress(ValueError):
                    value = json.loads(line)
                    stage = value.get("stage", stage)
                    if "stage" in value:
                        print(f"{stage} …", flush=True)
            worker.wait()
        said.seek(0)
        if not {"result", "error"} & set(value):
            value = {"said": said.read().decode(errors="replace")}
    return value, worker.returncode, stage, sampler.samples


def _instruments(order: Order) -> dict[str, Any] | None:
    """What the second process reports; None where it fails, for the figures of the first one stand alone."""
    print("operators …", flush=True)
    words = [sys.executable, "-m", "sottovoce.devices.instruments", json.dumps(asdict(order.job))]
    with _running(words, subprocess.DEVNULL) as process:
        out, _ = process.communicate()
    try:
        value: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return value


def _too_large(order: Order, limit: Limit, stage: str, samples: list[Sample], value: dict[str, Any]) -> str:
    """What to tell of a worker that did not live within its limit."""
    held = max((sample.anonymous + sample.files for sample in samples), default=0)
    how = "the kernel killed it for want of memory" if limit.killed else value.get("message", "memory was refused")
    name = Path(order.job.bundle).name
    return (
        f"{name} does not fit {size_text(limit.size)} ({limit.how}): {how} during {stage}, when it held "
        f"{size_text(held)}; fewer bits, a window, --cache int8 or --codec int8 make it smaller"
    )


def _ended(order: Order, status: int, stage: str, value: dict[str, Any]) -> str:
    """What to tell of a worker that ended with `status` and no result."""
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    said = (value.get("said", "").strip().splitlines() or ["nothing was said"])[-1]
    return f"measuring {order.job.bundle} {how} during {stage}: {said}"


@contextmanager
def _running(command: list[str], said: IO[bytes] | int) -> Iterator[subprocess.Popen[bytes]]:
    """`command` in a session of its own, of which nothing is left when the block ends, however it ends."""
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=said, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _end_with_stdin() -> None:
    """Ask this process to end as soon as stdin is closed: the other side of the connection is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Do the order that comes on stdin."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    order = parse(Order, json.loads(_first_line()), "order")
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        value = supervise(order)
    except (KeyboardInterrupt, BrokenPipeError):
        shutil.rmtree(order.folder, ignore_errors=True)  # whoever would remove it is gone
        return 130
    (Path(order.folder) / REPORT).write_text(json.dumps(value))
    return 0


def _first_line() -> str:
    """The first line of stdin, read without a buffer that would hide the end of the rest."""
    with open(0, "rb", buffering=0, closefd=False) as file:
        return file.readline().decode()


if __name__ == "__main__":
    sys.exit(main())
