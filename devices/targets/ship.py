"""Files to a target by their content: what is there already is not sent, what was cut off goes on where it stopped."""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sottovoce.devices.targets.probe import source
from sottovoce.devices.targets.target import Target, end, last_line, start
from sottovoce.errors import TargetError
from sottovoce.runtime.bundle import sha256
from sottovoce.runtime.table import size_text

ATTEMPTS = 4
"""How often in a row a transfer may fail without a byte more having arrived."""

CHUNK = 1 << 18


@dataclass(frozen=True)
class Parcel:
    """What a run needs: `files` laid out by path in its folder, `wheels` unpacked beside it."""

    files: Mapping[str, Path]
    wheels: tuple[Path, ...] = ()

    def paths(self) -> Iterable[Path]:
        """Every file there is to send."""
        return [*self.files.values(), *self.wheels]


@dataclass(frozen=True)
class Delivery:
    """Where a parcel lies on the target.

    `folder` is that of this run alone, `site` has the unpacked wheels ("": none); `sent` is of the last connection.
    """

    folder: str
    site: str
    sent: int


class _CutError(Exception):
    """The connection ended when `lacking` bytes of files were still to come (None: it ended before that was known)."""

    def __init__(self, said: str, lacking: int | None) -> None:
        super().__init__(last_line(said))
        self.lacking = lacking


def deliver(target: Target, python: str, parcel: Parcel, tell: Callable[[str], None] = lambda _: None) -> Delivery:
    """Bring `parcel` to `target`, whose interpreter is `python`, through as many broken connections as it takes.

    What goes on is told line by line. Raises TargetError where nothing arrives any more, or a file arrives altered.
    """
    hashes = {path: sha256(path) for path in parcel.paths()}
    least, idle = sum(path.stat().st_size for path in hashes) + 1, 0
    while True:
        try:
            return _attempt(target, python, parcel, hashes, tell)
        except _CutError as cut:
            moved = cut.lacking is not None and cut.lacking < least
            least, idle = (cut.lacking or least, 0) if moved else (least, idle + 1)
            if idle == ATTEMPTS:
                raise TargetError(f"{target.name}: the transfer broke off {ATTEMPTS} times in a row: {cut}") from None
            tell(f"the connection broke off ({cut}), going on")
            time.sleep(2**idle / 4)


def _attempt(
    target: Target, python: str, parcel: Parcel, hashes: Mapping[Path, str], tell: Callable[[str], None]
) -> Delivery:
    """One connection's worth of `deliver`; raises _CutError where it ends too early."""
    paths = {sha: path for path, sha in hashes.items()}
    with _receiver(target, python) as link:
        missing = link.ask({"want": {sha: path.stat().st_size for sha, path in paths.items()}})["missing"]
        link.lacking = sum(paths[sha].stat().st_size - there for sha, (there, _) in missing.items())
        for sha, (there, prefix) in missing.items():
            path = paths[sha]
            offset = there if there and _prefix_hash(path, there) == prefix else 0
            tell(f"sending {path.name}, {size_text(path.stat().st_size - offset)}")
            if not link.send(path, sha, offset) and not link.send(path, sha, 0):
                raise TargetError(f"{target.name}: {path} arrives altered twice: is somebody writing to it?")
        place = {name: hashes[path] for name, path in parcel.files.items()}
        reply = link.ask({"unpack": [hashes[path] for path in parcel.wheels], "place": place})
    return Delivery(reply["folder"], reply["site"], link.sent)


class _Link:
    """A running receiver, bytes of files that it lacked when it started, and bytes sent to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lacking: int | None = None
        self.sent = 0

    def ask(self, value: Mapping[str, Any]) -> Any:
        """Say `value`, return the reply; raises BrokenPipeError where there is none."""
        self._write(json.dumps(value).encode() + b"\n")
        return self._reply()

    def send(self, path: Path, sha: str, offset: int) -> bool:
        """Send `path` from `offset` on; whether it arrived as it is."""
        size = path.stat().st_size - offset
        self._write(json.dumps({"blob": sha, "offset": offset, "size": size}).encode() + b"\n")
        with path.open("rb") as file:
            file.seek(offset)
            for data in _chunks(file, size):
                self._write(data)
                self.sent += len(data)
        arrived: bool = self._reply()["ok"]
        return arrived

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def _reply(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise BrokenPipeError
        return json.loads(line)


@contextmanager
def _receiver(target: Target, python: str) -> Iterator[_Link]:
    """A receiver on `target`; raises TargetError where it cannot be had, _CutError where it ends too early."""
    process = start(target, [python, "-c", source("receive")])
    link = _Link(process)
    try:
        yield link
    except BrokenPipeError:
        said = end(process)
        if reason := target.refusal(process.returncode, said):
            raise TargetError(f"{target.name}: {reason}") from None
        if process.returncode > 0 and not target.dropped(process.returncode, said):
            raise TargetError(f"{target.name} cannot take files: {last_line(said)}") from None
        raise _CutError(said, link.lacking) from None
    finally:
        if process.returncode is None:
            end(process)


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of `file` in pieces; raises TargetError where it became shorter."""
    while size:
        data = file.read(min(size, CHUNK))
        if not data:
            raise TargetError(f"{file.name} became shorter while it was sent")
        size -= len(data)
        yield data


def _prefix_hash(path: Path, count: int) -> str:
    """SHA-256 of the first `count` bytes of a file, hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for data in _chunks(file, min(count, path.stat().st_size)):
            found.update(data)
    return found.hexdigest()
