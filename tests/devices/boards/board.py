"""Emulated boards: an ARM64 system under qemu-user behind a real sshd, and a real adbd in a network namespace.

They need root, packages and a folder for what is fetched once: `SOTTOVOCE_BOARDS=FOLDER`. What is missing is named.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.devices.sshd import SSHD, Server, serving

HERE = Path(__file__).parent
BINFMT = Path("/proc/sys/fs/binfmt_misc")
CORES = {"a76": ("aarch64", "cortex-a76"), "a53": ("aarch64", "cortex-a53"), "a7": ("arm", "cortex-a7")}
"""Architecture and processor of each board, as qemu calls them."""


def lacking(*programs: str) -> str | None:
    """What these tests lack here; None where they can run."""
    if "SOTTOVOCE_BOARDS" not in os.environ:
        return "SOTTOVOCE_BOARDS names no folder for emulated boards (150 MB are fetched into it)"
    if os.getuid() != 0:
        return "emulated boards need root"
    missing = [name for name in ("apt-get", "dpkg-deb", "unshare", *programs) if not shutil.which(name)]
    return f"{missing[0]} is not installed" if missing else None if SSHD else "sshd is not installed"


def folder(name: str) -> Path:
    """Where the board called `name` lies or will lie."""
    return Path(os.environ["SOTTOVOCE_BOARDS"]).resolve() / name


def built(name: str, *command: str) -> Path:
    """The folder called `name`, filled by `command` where it is not there yet."""
    place = folder(name)
    if not place.exists():
        partial = place.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        done = subprocess.run(
            ["bash", *(word.replace("{}", str(partial)) for word in command)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"the board {name} cannot be built: {done.stderr.strip().splitlines()[-1:]}")
        partial.rename(place)
    return place


@contextmanager
def binfmt(architecture: str) -> Iterator[None]:
    """Programs of `architecture` run as if they were native, while the block lasts."""
    entry = BINFMT / f"qemu-{architecture}"
    mounted = not (BINFMT / "register").exists()
    if mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True)
    ours = not entry.exists()
    if ours:
        (BINFMT / "register").write_text(Path(f"/usr/lib/binfmt.d/{entry.name}.conf").read_text())
    try:
        yield
    finally:
        with suppress(OSError):  # gone already, with another run of these tests
            if ours:
                entry.write_text("-1")
        if mounted:
            subprocess.run(["umount", BINFMT], capture_output=True)


@contextmanager
def emulated(core: str) -> Iterator[Server]:
    """An emulated board with a processor of class `core`, reached by ssh."""
    architecture, processor = CORES[core]
    root = built(core, str(HERE / "board.sh"), "{}", core)
    place = Path(tempfile.mkdtemp(dir="/mnt", prefix="sottovoce."))
    place.chmod(0o755)
    wrapper = ("unshare", "-m", "sh", str(HERE / "enter.sh"), str(root), str(place))
    extra = f"ChrootDirectory {place}"
    environment = f"QEMU_CPU={processor} XDG_CACHE_HOME=/root/cache HOME=/root"
    keys = Path(tempfile.mkdtemp(prefix="sottovoce."))
    try:
        with binfmt(architecture), serving(keys, extra, wrapper, environment) as server:
            server.root = root / "root" / "cache" / "sottovoce"
            yield server
    finally:
        shutil.rmtree(keys)
        place.rmdir()


@contextmanager
def adbd() -> Iterator[tuple[str, ...]]:
    """A real adbd and an adb server in a network namespace of their own; words before a command that is to see them."""
    packages = ("adbd",)
    root = built("adbd", str(HERE / "debian.sh"), "{}", "amd64", "trixie", *packages)
    library = root / "usr/lib/x86_64-linux-gnu"
    daemon = root / "usr/lib/android-sdk/platform-tools/adbd"
    loader = [str(library / "ld-linux-x86-64.so.2"), "--library-path", f"{library}:{library / 'android'}", str(daemon)]
    command = ["unshare", "-n", "sh", "-c", 'ip link set lo up && ADBD_PORT=6555 exec "$@"', "sh", *loader]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    inside = ("nsenter", f"--net=/proc/{process.pid}/ns/net", "env", "ANDROID_ADB_SERVER_PORT=5038")
    try:
        for _ in range(100):
            done = subprocess.run([*inside, "adb", "connect", "127.0.0.1:6555"], capture_output=True, text=True)
            if "connected to" in done.stdout:
                break
            time.sleep(0.2)
        yield inside
    finally:
        subprocess.run([*inside, "adb", "kill-server"], capture_output=True)
        process.terminate()
        process.wait()
