"""The peak of a process: as the system counts it, never falling, and not what its parent has held."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sottovoce.compress import memory
from sottovoce.compress.memory import peak_memory

CPU = torch.device("cpu")


def test_the_peak_stays() -> None:
    before = peak_memory(CPU)
    assert before is not None
    size = before + before // 5 + 50_000_000  # more than was free of what the process ever held
    held = np.ones(size, np.uint8)
    during = peak_memory(CPU)
    del held
    after = peak_memory(CPU)
    assert during is not None and after is not None
    # The kernel adds pages up in batches.
    assert before < 0.95 * size < during and 0.95 * during < after


@pytest.mark.skipif(os.name != "posix", reason="getrusage is of POSIX")
def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    peak = peak_memory(CPU)
    assert peak is not None and 1e7 < peak < 1e12


@pytest.mark.skipif(not memory.STATUS.exists(), reason="no /proc here")
def test_a_parents_peak_does_not_count() -> None:
    held = np.ones(300_000_000, np.uint8)
    code = "import torch; from sottovoce.compress.memory import *; print(peak_memory(torch.device('cpu')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    peak = peak_memory(CPU)
    assert peak is not None and int(said) < peak and len(held)
