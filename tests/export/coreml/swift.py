"""A Swift toolchain to build the example for iOS with: the system's own, or Debian 13's in a folder of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

VARIABLE = "SOTTOVOCE_SWIFT"
"""Names a folder for Debian 13 with its Swift (root, debootstrap, 3 GB), which is fetched there where it is missing."""

SWIFT = "usr/libexec/swift/bin/swift"


def require_swift() -> None:
    """Skip where there is none."""
    if not shutil.which("swift"):
        _system()


def run_swift(package: Path, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """`swift ARGUMENTS` in the folder `package`, which the toolchain sees where it lies; skips where there is none."""
    if shutil.which("swift"):
        return _run(["swift", *arguments], package, environment)
    system = _system()
    place = system / package.relative_to("/")
    place.mkdir(parents=True, exist_ok=True)
    mounts = (
        'mount --bind "$PWD" "$0$PWD" && mount -t proc proc "$0/proc"'  # of a namespace of its own, and gone with it
    )
    script = f'{mounts} && exec chroot "$0" env -C "$PWD" swift "$@"'
    return _run(["unshare", "--mount", "sh", "-c", script, str(system), *arguments], package, environment)


def _system() -> Path:
    """The folder with Debian in it, made where it is missing."""
    if not (folder := os.environ.get(VARIABLE)):
        pytest.skip(f"no swift on this machine: set {VARIABLE} to a folder that Debian's may be fetched into")
    if os.getuid() or not shutil.which("debootstrap"):
        pytest.skip(f"{VARIABLE} needs root and debootstrap")
    system = Path(folder).resolve()
    if not (system / SWIFT).exists():
        fetch = ["chroot", str(system), "apt-get", "install", "-qq", "-y", "--no-install-recommends"]
        subprocess.run(["debootstrap", "--variant=minbase", "trixie", str(system)], check=True, capture_output=True)
        subprocess.run([*fetch, "swiftlang", "libc6-dev"], check=True, capture_output=True)
    return system


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run it there, with `environment` beside what is set."""
    whole = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, check=False, timeout=600)
