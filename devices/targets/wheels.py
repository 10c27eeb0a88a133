"""The run side as files: this package in one archive, and wheels of the engine for a machine without a network."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from sottovoce.devices.targets.probe import Survey
from sottovoce.devices.targets.survey import NEEDED
from sottovoce.errors import TargetError

PARTS: Final = ("sottovoce", "sottovoce.runtime", "sottovoce.devices")
"""Packages that run on a target, and what lies below the last two."""

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: equal sources give an equal archive, which is sent once."""


def write_package(path: Path) -> None:
    """This package's run side as an archive that Python imports as it is, with its version beside it."""
    version = metadata.version("sottovoce")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(_sources()):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
        about = f"Metadata-Version: 2.1\nName: sottovoce\nVersion: {version}\n"
        archive.writestr(zipfile.ZipInfo(f"sottovoce-{version}.dist-info/METADATA", EPOCH), about)


def _sources() -> Iterator[tuple[str, bytes]]:
    """Name in the archive and contents of every source file of PARTS."""
    for part in PARTS:
        yield from _below(resources.files(part), part.replace(".", "/"), deep=part != "sottovoce")


def _below(folder: Traversable, name: str, deep: bool) -> Iterator[tuple[str, bytes]]:
    """The sources in `folder`, in its sub-folders too where `deep`."""
    for entry in folder.iterdir():
        if entry.is_file() and entry.name.endswith(".py"):
            yield f"{name}/{entry.name}", entry.read_bytes()
        elif deep and entry.is_dir() and entry.name != "__pycache__":
            yield from _below(entry, f"{name}/{entry.name}", deep)


def find_wheels(survey: Survey, folder: Path | None) -> tuple[Path, ...]:
    """Wheels that give the surveyed machine what it lacks: none, those in `folder`, or those fetched by pip and kept.

    With a `folder` its wheels are used in any case. Raises TargetError where there are none for that machine.
    """
    if folder is None and not survey.lacks:
        return ()
    if folder is None:
        folder = _download(survey)
    wheels = tuple(sorted(folder.glob("*.whl")))
    absent = [name for name in NEEDED if not any(wheel.name.startswith(f"{name}-") for wheel in wheels)]
    if absent:
        raise TargetError(
            f"{folder} has no wheel of {absent[0]}: pip download --only-binary=:all: -d {folder} {absent[0]}"
        )
    return wheels


def _download(survey: Survey) -> Path:
    """The cache folder with wheels for `survey`, filled by pip where it is empty."""
    tags = platform_tags(survey)
    version = "{}{}".format(*survey.python)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sottovoce" / "wheels"
    folder = cache / f"cp{version}-{tags[-1]}"
    if any(folder.glob("onnxruntime-*.whl")):
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(partial)]
    command += ["--python-version", version, "--implementation", "cp"]
    command += [word for tag in tags for word in ("--platform", tag)]
    done = subprocess.run([*command, *NEEDED], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise TargetError(
            f"{survey.host} lacks {survey.lacks[0]} and pip finds no wheel for {tags[-1]}, Python {version}: {said}; "
            "put wheels into a folder and name it with --wheels"
        )
    partial.rename(folder)
    return folder


def platform_tags(survey: Survey) -> list[str]:
    """Platform tags of wheels that run on the surveyed machine, newest first (PEP 600).

    Raises TargetError where no wheels exist for such a machine.
    """
    machine = survey.machine if survey.pointer_bits == 64 else "armv7l"
    if survey.system == "Linux" and survey.glibc:
        newest = int(survey.glibc.split(".")[1])
        return [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 16, -1)] + [f"manylinux2014_{machine}"]
    raise TargetError(
        f"{survey.host} ({survey.system} {survey.machine}) lacks {survey.lacks[0]}, and pip has wheels for Linux with "
        "glibc: install it there, or name wheels for it with --wheels"
    )
