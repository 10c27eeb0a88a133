"""Writes a bundle folder whole or not at all; knows nothing about what is in it.

Everything is written to a hidden folder beside the target, flushed to disk and renamed. A failure of any kind removes
the hidden folder, so the target is either the old bundle, the new one, or absent.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from sottovoce.errors import BundleError, OptionError, OutputError
from sottovoce.runtime.bundle import sha256
from sottovoce.runtime.manifest import MANIFEST, FileEntry
from sottovoce.runtime.strict_json import read_json

TOOLS = ("sottovoce", "torch", "onnx", "onnxruntime", "numpy", "optimum", "transformers", "safetensors")
"""Distributions whose versions a manifest records, where installed."""


@contextlib.contextmanager
def staged_folder(target: Path, force: bool) -> Iterator[Path]:
    """A fresh folder beside `target`: it becomes `target` when the block ends and vanishes when the block raises.

    An existing bundle is replaced only with `force`, and stays in place until the new one is complete.
    Raises OptionError for a target that may not be replaced, OutputError where the disk refuses (full, read-only).
    """
    target = target.resolve()
    check_target(target, force)
    missing = [p for p in target.parents if not p.exists()]
    stage = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with _disk_errors(target, stage):
            stage.mkdir(parents=True)
            yield stage
            check_target(target, force)  # minutes have passed
            _carry_speakers(target, stage)
            _flush(stage)
            _swap(stage, target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def check_target(target: Path, force: bool) -> None:
    """Raise OptionError unless `target` is free, or `force` is given and it is a bundle or an empty folder."""
    if not target.exists():
        return
    if not force:
        raise OptionError(f"{target} exists: choose another --output, or --force to replace it")
    if not target.is_dir() or (any(target.iterdir()) and not _is_bundle(target)):
        raise OptionError(f"{target} is not a bundle, so --force does not replace it: remove it yourself")


def _is_bundle(folder: Path) -> bool:
    """Whether `folder` holds a manifest of this or another version: other programs write files of that name too."""
    try:
        value = read_json(folder / MANIFEST)
    except BundleError:
        return False
    return isinstance(value, dict) and {"schema", "files", "cache"} <= value.keys()


def _carry_speakers(old: Path, stage: Path) -> None:
    """Copy the speakers that users kept in the bundle `old`, not listed in its manifest, unless the new one has them.

    They are codes: where source or codec changed, the runtime judges them as it does any prompt.
    """
    listed = read_json(old / MANIFEST)["files"] if _is_bundle(old) else {}
    for path in sorted((old / "prompts").glob("*.json")):
        kept = stage / "prompts" / path.name
        if f"prompts/{path.name}" not in listed and path.is_file() and not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, kept)


def check_space(target: Path, size: int) -> None:
    """Raise OutputError where the disk of `target` has fewer than `size` bytes free."""
    folder = next(p for p in target.resolve().parents if p.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(f"{target} needs {size / 1e6:.1f} MB and {folder} has {free / 1e6:.1f} MB free: make room")


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """SHA-256 and size of every file under `folder` except the manifest, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): FileEntry(sha256(p), p.stat().st_size) for p in files}


def tool_versions(names: Iterable[str] = TOOLS) -> dict[str, str]:
    """Installed version of each distribution, those not installed left out."""
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@contextlib.contextmanager
def _disk_errors(target: Path, stage: Path) -> Iterator[None]:
    """Turn what the system says about writing `target` into one OutputError line that names it and not `stage`."""
    try:
        yield
    except OutputError as error:
        raise OutputError(str(error).replace(str(stage), str(target))) from error
    except OSError as error:
        if error.errno is None:
            raise
        raise OutputError(f"{target} cannot be written: {error.strerror}; nothing was left behind") from error


def _flush(folder: Path) -> None:
    """Bring every file and folder under `folder` to the disk: a rename alone does not survive a power cut."""
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    """fsync one file or, where the system allows opening it, one folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(stage: Path, target: Path) -> None:
    """Rename `stage` to `target`; an old target steps aside first and comes back if that fails."""
    old = stage.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        stage.rename(target)
    except BaseException:  # Ctrl-C too
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _fsync(target.parent)
