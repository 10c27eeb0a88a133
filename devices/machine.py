"""What a measurement was taken on: processor, cores, memory, system and versions. Every report carries one."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Distributions that bring `onnxruntime`."""

VERSIONS = ("sottovoce", *ENGINES, "numpy")
"""Distributions whose versions decide a figure, where installed."""


@dataclass(frozen=True)
class Machine:
    """One machine; `cores` are those this process may use, `memory` is bytes of RAM (None where unknown)."""

    processor: str
    architecture: str
    cores: int
    memory: int | None
    system: str
    python: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    """The machine this process runs on."""
    return Machine(
        processor=processor_name(),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory=_memory(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=dict(_versions()),
    )


def _versions() -> Iterator[tuple[str, str]]:
    """Name and version of each installed one of VERSIONS."""
    for name in VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def processor_name() -> str:
    """The processor's name as its system gives it; on boards without one, the board's model."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    cpuinfo, board = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
    name = name_from_cpuinfo(cpuinfo.read_text()) if cpuinfo.exists() else None
    if name is None and board.exists():
        name = board.read_text().strip("\0\n")
    return name or platform.processor() or platform.machine()


def name_from_cpuinfo(text: str) -> str | None:
    """`model name` of the text of /proc/cpuinfo, or the `Model`/`Hardware` line that ARM boards have instead."""
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}
    return next((fields[key] for key in ("model name", "Model", "Hardware") if fields.get(key)), None)


def _memory() -> int | None:
    """Bytes of RAM, or None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
