"""A bundle folder appears whole or not at all, whatever goes wrong while it is written."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sottovoce.errors import OptionError, OutputError
from sottovoce.export import bundle_writer
from sottovoce.export.bundle_writer import check_space, file_entries, staged_folder


def write(target: Path, text: str, force: bool = False) -> None:
    """A bundle whose manifest lists the speaker `ada` and is of the source `text`."""
    with staged_folder(target, force) as folder:
        (folder / "prompts").mkdir()
        (folder / "prompts" / "ada.json").write_text(text)
        listed: dict[str, object] = {"prompts/ada.json": {}}
        (folder / "manifest.json").write_text(json.dumps({"schema": 1, "files": listed, "cache": {}, "source": text}))


def source(target: Path) -> str:
    """What `write` wrote."""
    said: str = json.loads((target / "manifest.json").read_text())["source"]
    return said


def test_the_folder_appears_with_its_content(tmp_path: Path) -> None:
    write(tmp_path / "new" / "bundle", "hello")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["bundle"]
    assert source(tmp_path / "new" / "bundle") == "hello"


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: BaseException, existing: bool) -> None:
    target = tmp_path / "bundle"
    if existing:
        write(target, "old")
    expected = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected), staged_folder(target, force=True) as folder:
        (folder / "manifest.json").write_text("half")
        raise failure
    assert [p.name for p in tmp_path.iterdir()] == (["bundle"] if existing else [])
    if existing:
        assert source(target) == "old"


def test_a_failure_removes_the_parents_it_made(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "a" / "b" / "bundle", force=False):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, "old")
    with pytest.raises(OptionError, match="--force"):
        write(target, "new")
    assert source(target) == "old"
    write(target, "new", force=True)
    assert source(target) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_force_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(OptionError, match="not a bundle"):
        write(tmp_path / "home", "new", force=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3}', "[]", "not JSON", "[" * 100_000])
def test_force_never_replaces_another_programs_manifest(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text(manifest)
    with pytest.raises(OptionError, match="not a bundle"):
        write(tmp_path / "extension", "new", force=True)
    assert (tmp_path / "extension" / "manifest.json").read_text() == manifest


def test_kept_speakers_move_to_the_new_bundle(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, "old")
    (target / "prompts" / "mine.json").write_text("my own voice")
    write(target, "new", force=True)
    assert (target / "prompts" / "mine.json").read_text() == "my own voice"
    assert (target / "prompts" / "ada.json").read_text() == "new"  # the voice's own come from the voice


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(OptionError, match="exists"), staged_folder(target, force=False) as folder:
        (folder / "manifest.json").write_text("{}")
        target.mkdir()
        (target / "letter.txt").write_text("dear")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["bundle", "bundle/letter.txt"]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_the_old_bundle_comes_back_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch, failure: BaseException
) -> None:
    target = tmp_path / "bundle"
    write(target, "old")
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if self.name.endswith(".partial"):
            raise failure
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write(target, "new", force=True)
    assert source(target) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.name == "nt" or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OutputError, match=r"bundle cannot be written: No space left on device") as caught:
        write(small_disk / "bundle", "x" * 1_000_000)
    assert "\n" not in str(caught.value)
    assert list(small_disk.iterdir()) == []


def test_space_is_asked_for_before_writing(small_disk: Path) -> None:
    check_space(small_disk / "bundle", 100_000)
    with pytest.raises(OutputError, match=r"needs 1\.0 MB"):
        check_space(small_disk / "bundle", 1_000_000)


def test_every_file_is_listed_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "a.json").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_text("{}")
    entries = file_entries(tmp_path)
    assert list(entries) == ["prompts/a.json"]
    assert entries["prompts/a.json"].size == 3
    assert entries["prompts/a.json"].sha256.startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1


def test_versions_name_installed_tools_only() -> None:
    assert list(bundle_writer.tool_versions(["numpy", "no-such-distribution"])) == ["numpy"]
