"""File names that a bundle gives: they stay inside its folder."""

from pathlib import Path, PurePosixPath

from sottovoce.errors import BundleError


def inside(folder: Path, name: str) -> Path:
    """`folder / name`; raises BundleError where that would leave the folder (absolute, `..`, or through a link)."""
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts or "\\" in name or ":" in name:
        raise BundleError(f"{folder}: file name {name!r} points outside the bundle")
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path} is a link that leads outside the bundle: copy the file itself")
    return path
