"""Every benchmark in turn (`make bench`); exit status 1 where one misses a gate."""

import subprocess
import sys

MODULES = (
    "shape05b",
    "reference_voice",
    "steady_memory",
    "fit",
    "export_fit",
    "quantized",
    "kernels",
    "attention",
    "sampling",
    "codec_formats",
    "kv_table",
    "window_latency",
    "pruned_parameters",
    "pruned_memory",
    "pruned",
    "patch",
)


def main() -> int:
    """Run each module in a process of its own."""
    missed = [name for name in MODULES if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
