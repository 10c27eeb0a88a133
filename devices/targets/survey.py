"""Runs on the target, of the standard library alone: what is there to run a bundle with, as one line of JSON."""

import importlib.util
import json
import os
import platform
import sys
from importlib import metadata

NEEDED = ("numpy", "onnxruntime", "soundfile")
"""Modules that speaking takes."""


def version(module: str) -> str | None:
    """The version of an installed module; None where it is missing."""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:  # Debian's engine and others come without metadata
        return "unknown" if importlib.util.find_spec(module) else None


def main() -> None:
    """Print the survey."""
    libc = platform.libc_ver()
    found = {
        "executable": sys.executable,
        "python": list(sys.version_info[:2]),
        "system": platform.system(),
        "machine": platform.machine(),
        "pointer_bits": 64 if sys.maxsize > 2**32 else 32,
        "glibc": libc[1] if libc[0] == "glibc" else None,
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "modules": {name: version(name) for name in NEEDED},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
