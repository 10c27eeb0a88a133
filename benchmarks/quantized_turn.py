"""One turn of `benchmarks/quantized.py`, in a process that imports what `sottovoce say` does and no more.

python -m benchmarks.quantized_turn BUNDLE THREADS PREFIX STEPS     figures as JSON
"""

import json
import sys
import time
from pathlib import Path

from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream


def turn(folder: Path, threads: int, prefix: int, steps: int) -> dict[str, float]:
    """Seconds to hash and to open, median seconds of a step once all buffers are warm, peak bytes."""
    bundle = load_bundle(folder, threads)
    stream = Stream(bundle)
    stream.prefill(range(prefix))
    times = []
    for step in range(steps + 5):
        start = time.perf_counter()
        stream.step(step)
        times.append(time.perf_counter() - start)
    status = Path("/proc/self/status").read_text()
    from sottovoce.devices.memory import from_proc  # its own imports are no part of the peak

    middle = sorted(times[5:])[(len(times) - 5) // 2]
    return {**bundle.load_seconds, "step": middle, "peak": from_proc(status, None).peak}


if __name__ == "__main__":
    print(json.dumps(turn(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
