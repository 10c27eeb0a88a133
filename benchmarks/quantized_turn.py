"""One turn of `benchmarks/quantized.py`, in a process that imports the runtime's loop and no more.

python -m benchmarks.quantized_turn BUNDLE THREADS PREFIX STEPS     figures as JSON

`sottovoce say` takes its options, sound files and text besides.
"""

import json
import sys
import time
from pathlib import Path

from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream


def turn(folder: Path, threads: int, prefix: int, steps: int) -> dict[str, float]:
    """Seconds to hash and to open, median seconds of a step once all buffers are warm; peak bytes, and those resident
    once all is imported, the bundle open, and at the end."""
    seen, times = [_status()], []
    bundle = load_bundle(folder, threads)
    seen.append(_status())
    stream = Stream(bundle)
    stream.prefill(range(prefix))
    for step in range(steps + 5):
        start = time.perf_counter()
        stream.step(step)
        times.append(time.perf_counter() - start)
    seen.append(_status())
    from sottovoce.devices.memory import from_proc  # its own imports are no part of the peak

    imported, opened, ended = (from_proc(status, None) for status in seen)
    resident = {"imported": imported.resident, "opened": opened.resident, "ended": ended.resident}
    return {**bundle.load_seconds, "step": sorted(times[5:])[steps // 2], "peak": ended.peak, **resident}


def _status() -> str:
    """What the system says of this process."""
    return Path("/proc/self/status").read_text()


if __name__ == "__main__":
    print(json.dumps(turn(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
