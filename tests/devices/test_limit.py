"""A memory limit that kills: a real one where this machine allows it, and the substitute."""

import subprocess
import sys
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.devices import limit
from sottovoce.devices.limit import DataLimit, GroupV2, limited, parse_size
from sottovoce.errors import OptionError

EATER = "block = bytearray({} << 20); block[::4096] = b'x' * len(block[::4096]); print('done')"


def allowed() -> str | None:
    """Why no group can be made here; None where one can."""
    try:
        with limited(64 << 20) as group:
            return None if group.how != "data limit" else "no memory control group may be made here"
    except OSError as error:
        return str(error)


needs_group = pytest.mark.skipif(allowed() is not None, reason=allowed() or "")


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("2g", 2 << 30), ("64KiB", 65536), ("1000", 1000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "0", "1.5G", "lots"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionError, match="--limit"):
        parse_size(text)


@needs_group
@pytest.mark.parametrize(("megabytes", "status", "killed"), [(20, 0, 0), (200, -9, 1)])
def test_the_kernel_kills_what_is_too_large(megabytes: int, status: int, killed: int) -> None:
    with limited(96 << 20) as group:
        assert not isinstance(group, DataLimit)
        command = group.command([sys.executable, "-S", "-c", EATER.format(megabytes)])
        assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == status
        found = group.result(96 << 20)
        folder = group.folder
    assert found.killed == killed
    assert found.peak
    assert megabytes << 20 < found.peak <= 96 << 20 or killed
    assert not folder.exists()


def test_the_substitute_refuses_memory() -> None:
    group = DataLimit(96 << 20)
    for megabytes, fits in ((20, True), (200, False)):
        command = group.command([sys.executable, "-S", "-c", EATER.format(megabytes)])
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) is fits
        assert fits or "MemoryError" in done.stderr
    assert group.result(96 << 20).peak is None


def test_version_2_is_preferred_where_it_has_the_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a group, not the kernel: this machine may have only one of the versions."""
    unified, old = tmp_path / "unified", tmp_path / "memory"
    unified.mkdir()
    old.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup {old} cgroup rw,memory 0 0\ncgroup2 {unified} cgroup2 rw 0 0\n")
    monkeypatch.setattr(limit, "MOUNTS", mounts)
    (unified / "cgroup.subtree_control").write_text("cpu\n")
    with limited(1 << 20) as group:
        assert group.how == "cgroup v1"
    (unified / "cgroup.subtree_control").write_text("cpu memory\n")
    mounts.write_text(f"cgroup2 {unified} cgroup2 rw 0 0\n")
    with limited(1 << 20) as group:
        assert isinstance(group, GroupV2)
        assert (group.folder / "memory.max").read_text() == "1048576"
        assert (group.folder / "memory.swap.max").read_text() == "0"
        (group.folder / "memory.peak").write_text("7000\n")
        (group.folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
        assert group.result(1 << 20) == limit.Limit(1 << 20, "cgroup v2", 7000, 2)


@needs_group
def test_a_bundle_that_does_not_fit_is_told_from_a_crash(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    options = ["--text", "hello", "--runs", "1", "--threads", "1"]
    assert main(["profile", str(tiny_bundle), *options, "--limit", "16M", "-o", str(tmp_path / "no.json")]) == 1
    said = capsys.readouterr().err
    assert "tiny does not fit 16.8 MB (cgroup v" in said
    assert "killed it for want of memory during i" in said
    assert not (tmp_path / "no.json").exists()
    assert main(["profile", str(tiny_bundle), *options, "--limit", "512M"]) == 0
