"""Runs on the target, of the standard library alone: takes files by their SHA-256 and lays them out for a run.

Its source is sent as `python3 -c`, so that nothing needs to be there. Lines of JSON on stdin and stdout:

    in   {"want": {sha: size}}                     out  {"root": "…", "missing": {sha: [bytes there, their sha]}}
    in   {"blob": sha, "offset": n, "size": m}, then m bytes, for each missing file
                                                   out  {"blob": sha, "ok": true}
    in   {"unpack": [sha of a wheel], "place": {path: sha}}
                                                   out  {"folder": "…", "site": "…"}

A file that is cut off stays as `SHA.partial` and is continued; it gets its name when its hash is right.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, Any

IDLE = 60
"""Seconds without a byte after which the sender is taken for gone."""

KEPT = 14 * 86400
"""Seconds after which files nobody used are removed."""

STALE = 86400
"""Seconds after which the folder of a run that never ended is removed."""

CHUNK = 1 << 18


def root_folder() -> Path:
    """Where files are kept: the user's cache, or the one place of an Android device where a shell may run programs."""
    android = Path("/data/local/tmp")
    if "XDG_CACHE_HOME" not in os.environ and os.environ.get("HOME", "/") == "/" and android.is_dir():
        return android / "sottovoce"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sottovoce"


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing(store: Path, want: dict[str, int]) -> dict[str, tuple[int, str]]:
    """Of the files `want`ed those that are not in the store whole: bytes that are there already, and their hash."""
    found: dict[str, tuple[int, str]] = {}
    for sha, size in want.items():
        path, partial = store / sha, store / f"{sha}.partial"
        if path.exists() and path.stat().st_size == size and digest(path) == sha:
            os.utime(path)
        else:
            path.unlink(missing_ok=True)
            found[sha] = (partial.stat().st_size, digest(partial)) if partial.exists() else (0, "")
    return found


def lock(file: IO[bytes]) -> None:
    """Have `file` to oneself; a sender that is gone lets go of it within IDLE seconds."""
    for _ in range(IDLE + 15):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(1)
    sys.exit("another transfer of the same file is going on")


def take(store: Path, sha: str, offset: int, size: int) -> bool:
    """Append `size` bytes of stdin to what is there of `sha` from `offset` on; whether its hash is right then."""
    partial = store / f"{sha}.partial"
    with partial.open("ab") as file:
        lock(file)
        file.truncate(offset)
        while size:
            signal.alarm(IDLE)
            data = sys.stdin.buffer.read1(min(size, CHUNK))  # type: ignore[union-attr]
            if not data:
                sys.exit("the connection ended")
            file.write(data)
            file.flush()
            size -= len(data)
        os.fsync(file.fileno())
    if right := digest(partial) == sha:
        partial.replace(store / sha)
    else:
        partial.unlink()
    return right


def unpack(root: Path, wheels: list[str]) -> Path | None:
    """A folder with the contents of `wheels`, made once for each set of them."""
    if not wheels:
        return None
    site = root / "site" / hashlib.sha256(" ".join(sorted(wheels)).encode()).hexdigest()[:16]
    if not site.exists():
        site.parent.mkdir(exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=site.parent, prefix="partial."))
        for wheel in wheels:
            with zipfile.ZipFile(root / "store" / wheel) as archive:
                archive.extractall(partial)
        partial.rename(site)
    os.utime(site)
    return site


def place(root: Path, files: dict[str, str]) -> Path:
    """A new folder for one run in which each path of `files` is a link to the stored file, or a copy of it."""
    (root / "runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root / "runs"))
    for name, sha in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(root / "store" / sha)
        except OSError:  # file systems of memory cards have no links, Android's rules forbid them
            shutil.copyfile(root / "store" / sha, path)
    return folder


def sweep(root: Path) -> None:
    """Remove what was not used for long: files, unpacked wheels, and runs that were killed."""
    now = time.time()
    for folder, age in (("store", KEPT), ("site", KEPT), ("runs", STALE)):
        for path in (root / folder).glob("*"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > age:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def answer(value: dict[str, Any]) -> None:
    """Say `value` as a line."""
    print(json.dumps(value), flush=True)


def main() -> None:
    """Serve one sender until it closes the connection."""
    os.umask(0o077)
    root = root_folder()
    store = root / "store"
    store.mkdir(parents=True, exist_ok=True)
    sweep(root)
    signal.alarm(IDLE)
    for line in iter(sys.stdin.buffer.readline, b""):
        signal.alarm(0)
        said = json.loads(line)
        if "want" in said:
            answer({"root": str(root), "missing": missing(store, said["want"])})
        elif "blob" in said:
            answer({"blob": said["blob"], "ok": take(store, said["blob"], said["offset"], said["size"])})
        else:
            site = unpack(root, said["unpack"])
            answer({"folder": str(place(root, said["place"])), "site": str(site) if site else ""})
        signal.alarm(IDLE)


if __name__ == "__main__":
    main()
