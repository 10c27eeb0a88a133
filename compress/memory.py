"""The most memory that this process has held so far: on a CUDA device the tensors there, else all that is resident."""

import sys
from pathlib import Path
from typing import Final

import torch

STATUS: Final = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int | None:
    """Bytes; None on a system that does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.exists():
        # Not getrusage where there is a choice: on Linux its peak is inherited from the parent.
        lines = (line.split() for line in STATUS.read_text().splitlines())
        return 1024 * next(int(words[1]) for words in lines if words and words[0] == "VmHWM:")
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
