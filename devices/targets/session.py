"""A bundle and the run side on a target, for as long as a block lasts: run modules there, fetch what they wrote."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sottovoce.devices.targets.probe import Survey, probe
from sottovoce.devices.targets.ship import Delivery, Parcel, deliver
from sottovoce.devices.targets.target import Local, Target, check, end, last_line, start
from sottovoce.devices.targets.wheels import find_wheels, write_package
from sottovoce.errors import TargetError
from sottovoce.runtime.bundle import check_files
from sottovoce.runtime.manifest import MANIFEST, read_manifest
from sottovoce.runtime.paths import inside

PACKAGE: Final = "sottovoce.zip"
"""The run side in the folder of a run."""


@dataclass(frozen=True)
class Place:
    """A folder on a target for one run, an interpreter that finds the run side, and the bundle's path."""

    target: Target
    python: tuple[str, ...]
    folder: str
    bundle: str

    def run(self, module: str, job: Mapping[str, Any], tell: Callable[[str], None] = lambda _: None) -> None:
        """`python -m module` there with `job` as a line of JSON on stdin; tells what it prints, line by line.

        Stdin stays open while it runs: a module ends when that closes, and so nothing stays behind when this process
        ends or the connection does. Raises TargetError where the connection ends or the module fails.
        """
        process = start(self.target, [*self.python, "-m", module])
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                tell(line.decode(errors="replace").rstrip())
        except BrokenPipeError:
            pass  # what it said tells why
        finally:
            said = end(process)
        check(self.target, process.returncode, said)
        if process.returncode:
            raise TargetError(f"{self.target.name}: {module} ended with status {process.returncode}: {last_line(said)}")

    def pull(self, name: str) -> bytes:
        """The contents of file `name` in the folder; raises TargetError where it cannot be had."""
        return _output(self.target, ["cat", f"{self.folder}/{name}"])


@contextmanager
def open_place(
    target: Target,
    bundle: Path,
    python: str | None = None,
    wheels: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Place]:
    """`bundle` and the run side on `target`; what was made there for this run is removed afterwards.

    On this machine both are used where they are. Elsewhere files stay in a store by their hash, for the next run.
    `python` is the interpreter there, `wheels` a folder of wheels for it. Raises TargetError.
    """
    if isinstance(target, Local):
        with tempfile.TemporaryDirectory(prefix="sottovoce.") as folder:
            yield Place(target, (sys.executable,), folder, str(bundle.resolve()))
        return
    survey = probe(target, python)
    with tempfile.TemporaryDirectory(prefix="sottovoce.") as scratch:
        parcel = pack(bundle, Path(scratch) / PACKAGE, find_wheels(survey, wheels))
        delivery = deliver(target, survey.executable, parcel, tell)
    try:
        yield Place(target, _interpreter(survey, delivery), delivery.folder, f"{delivery.folder}/bundle")
    finally:
        _remove(target, delivery.folder)


def pack(bundle: Path, package: Path, wheels: Sequence[Path]) -> Parcel:
    """The files of `bundle` that its manifest lists, and the run side written to `package`; raises BundleError."""
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    write_package(package)
    names = [MANIFEST, *manifest.files]
    names += [path.relative_to(bundle).as_posix() for path in sorted((bundle / "prompts").glob("*.json"))]
    files = {f"bundle/{name}": inside(bundle, name) for name in names}
    return Parcel({**files, PACKAGE: package}, tuple(wheels))


def _interpreter(survey: Survey, delivery: Delivery) -> tuple[str, ...]:
    """The interpreter of `survey` with what was delivered on its path, and the working folder off it."""
    path = ":".join(part for part in (f"{delivery.folder}/{PACKAGE}", delivery.site) if part)
    return ("env", f"PYTHONPATH={path}", "PYTHONSAFEPATH=1", "PYTHONDONTWRITEBYTECODE=1", survey.executable)


def _remove(target: Target, folder: str) -> None:
    """Remove the folder of a run; one that cannot be reached any more is swept by a later transfer."""
    process = start(target, ["rm", "-rf", folder])
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _output(target: Target, arguments: Sequence[str]) -> bytes:
    """What a program there writes to stdout; raises TargetError where it fails."""
    process = start(target, arguments)
    out, err = process.communicate()
    said = err.decode(errors="replace")
    check(target, process.returncode, said)
    if process.returncode:
        raise TargetError(f"{target.name}: {last_line(said)}")
    return out
