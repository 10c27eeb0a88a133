"""Memory of a running process and the machine's sensors over time, from outside, so that it is not disturbed."""

import threading
import time
from pathlib import Path
from typing import Final

from sottovoce.devices.memory import kilobytes
from sottovoce.devices.readings import Sample
from sottovoce.devices.sensors import Sensors, read_sensors

INTERVAL: Final = 0.02
"""Seconds between samples at first."""

MOST: Final = 1000
"""Samples kept: beyond, every other one is dropped and the interval doubles."""


class Sampler:
    """Samples process `pid` from entering a block to leaving it."""

    def __init__(self, pid: int) -> None:
        """Sample nothing yet."""
        self.status = Path(f"/proc/{pid}/status")
        self.samples: list[Sample] = []
        self.interval = INTERVAL
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, with a last sample."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        """Sample until told to end; sensors ten times less often, for some are slow."""
        sensors, turn = read_sensors(), 0
        while not self._ended.wait(self.interval):
            turn += 1
            sensors = read_sensors() if turn % 10 == 0 else sensors
            sample = read_sample(self.status, sensors)
            if sample is None:
                return
            self.samples.append(sample)
            if len(self.samples) > MOST:
                self.samples = self.samples[::2]
                self.interval *= 2


def read_sample(status: Path, sensors: Sensors) -> Sample | None:
    """One sample from a /proc/PID/status; None where the process is gone or the system has no such file."""
    try:
        fields = kilobytes(status.read_text())
        files = fields["RssFile"] + fields.get("RssShmem", 0)
        return Sample(time.monotonic(), fields["RssAnon"], files, fields.get("VmSwap", 0), sensors)
    except (OSError, KeyError):
        return None
