"""Emulated boards: an ARM64 system under qemu-user behind a real sshd or adbd, the latter in a network namespace.

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
def mounted(core: str) -> Iterator[tuple[Path, Path, tuple[str, ...]]]:
    """The board with a processor of class `core`: its folder, where it is mounted, words before what runs beside it."""
    root = built(core, str(HERE / "board.sh"), "{}", core)
    place = Path(tempfile.mkdtemp(dir="/mnt", prefix="sottovoce."))
    place.chmod(0o755)
    try:
        with binfmt(CORES[core][0]):
            yield root, place, ("unshare", "-m", "sh", str(HERE / "enter.sh"), str(root), str(place))
    finally:
        place.rmdir()


def environment(core: str) -> dict[str, str]:
    """What programs on the board with a processor of class `core` find set."""
    return {"QEMU_CPU": CORES[core][1], "XDG_CACHE_HOME": "/root/cache", "HOME": "/root"}


@contextmanager
def emulated(core: str) -> Iterator[Server]:
    """An emulated board with a processor of class `core`, reached by ssh."""
    keys = Path(tempfile.mkdtemp(prefix="sottovoce."))
    words = " ".join(f"{name}={value}" for name, value in environment(core).items())
    try:
        with (
            mounted(core) as (root, place, wrapper),
            serving(keys, f"ChrootDirectory {place}", wrapper, words) as server,
        ):
            server.root = root / "root" / "cache" / "sottovoce"
            yield server
    finally:
        shutil.rmtree(keys)


@contextmanager
def adbd(variables: dict[str, str] | None = None) -> Iterator[tuple[str, ...]]:
    """A real adbd and an adb server in a network namespace of their own; words before a command that is to see them.

    What runs on the device finds `variables` set.
    """
    root = built("adbd", str(HERE / "debian.sh"), "{}", "amd64", "trixie", "adbd")
    with listening((), daemon(root, "x86_64"), variables) as way:
        yield way


@contextmanager
def emulated_adbd(core: str) -> Iterator[tuple[tuple[str, ...], Path]]:
    """An emulated board reached by adb, its adbd emulated too; see `adbd`. The path is where files sent to it are."""
    programs = built("adbd-arm64", str(HERE / "debian.sh"), "{}", "arm64", "trixie", "adbd")
    with mounted(core) as (root, place, wrapper):
        (root / "opt" / "adbd").mkdir(parents=True, exist_ok=True)
        enter = ("sh", "-c", 'mount --bind "$0" "$1/opt/adbd" && exec chroot "$@"', str(programs), str(place))
        with listening((*wrapper, *enter), daemon(Path("/opt/adbd"), "aarch64"), environment(core)) as way:
            yield way, root / "root" / "cache" / "sottovoce"


def daemon(root: Path, architecture: str) -> tuple[str, ...]:
    """The command that starts the adbd unpacked below `root`, with its own loader and libraries."""
    library = root / f"usr/lib/{architecture}-linux-gnu"
    loader = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}[architecture]
    program = root / "usr/lib/android-sdk/platform-tools/adbd"
    return (str(library / loader), "--library-path", f"{library}:{library / 'android'}", str(program))


@contextmanager
def listening(
    wrapper: tuple[str, ...], command: tuple[str, ...], variables: dict[str, str] | None = None
) -> Iterator[tuple[str, ...]]:
    """The adbd that `command` starts in a network namespace, `wrapper` before it; see `adbd`."""
    alone = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *wrapper)
    process = subprocess.Popen(
        [*alone, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "ADBD_PORT": "6555", **(variables or {})},
    )
    inside = ("nsenter", f"--net=/proc/{process.pid}/ns/net", "env", "ANDROID_ADB_SERVER_PORT=5038")
    try:
        while Path(f"/proc/{process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.02)  # not in its namespace yet
        for _ in range(100):
            done = subprocess.run([*inside, "adb", "connect", "127.0.0.1:6555"], capture_output=True, text=True)
            if "connected to" in done.stdout:
                break
            time.sleep(0.2)
        else:
            raise AssertionError("adbd does not answer")
        yield inside
    finally:
        subprocess.run([*inside, "adb", "kill-server"], capture_output=True)
        process.terminate()
        process.wait()
