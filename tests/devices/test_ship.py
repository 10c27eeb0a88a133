"""Files by their hash, over a real connection that is cut again and again."""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sottovoce.devices.targets import receive, ship
from sottovoce.devices.targets.probe import Survey
from sottovoce.devices.targets.ship import Parcel, deliver
from sottovoce.devices.targets.target import open_target
from sottovoce.devices.targets.wheels import find_wheels, platform_tags, write_package
from sottovoce.errors import TargetError
from tests.devices.sshd import Cutter, Server, needs_sshd

SIZE = 12_000_000


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


@needs_sshd
def test_a_transfer_cut_five_times_ends_whole(board: Server, large: Path) -> None:
    way = Cutter(board.port, cuts=[2_000_000] * 5)
    board.trust(way.port)
    told: list[str] = []
    try:
        found = deliver(
            open_target(f"ssh://127.0.0.1:{way.port}"), sys.executable, Parcel({"a/large": large}), told.append
        )
    finally:
        way.close()
    assert way.connections == 6
    assert sum("broke off" in line for line in told) == 5
    assert found.sent < 0.9 * SIZE  # the last connection went on where the ones before it stopped
    assert (Path(found.folder) / "a" / "large").read_bytes() == large.read_bytes()
    assert not list((board.root / "store").glob("*.partial"))


@needs_sshd
def test_a_way_that_lets_nothing_through_is_given_up(board: Server, large: Path, monkeypatch) -> None:
    monkeypatch.setattr(ship.time, "sleep", lambda _: None)
    way = Cutter(board.port, cuts=[500] * 50)
    board.trust(way.port)
    try:
        with pytest.raises(TargetError, match="broke off 4 times in a row"):
            deliver(open_target(f"ssh://127.0.0.1:{way.port}"), sys.executable, Parcel({"large": large}))
    finally:
        way.close()


@needs_sshd
def test_what_is_there_is_not_sent_again(board: Server, large: Path, tmp_path: Path) -> None:
    target = open_target(board.url)
    (tmp_path / "small").write_bytes(b"small")
    assert deliver(target, sys.executable, Parcel({"large": large})).sent == SIZE
    found = deliver(target, sys.executable, Parcel({"other name": large, "small": tmp_path / "small"}))
    assert found.sent == len(b"small")
    assert (Path(found.folder) / "other name").stat().st_size == SIZE


@needs_sshd
@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_damage_on_the_target_is_found_and_mended(board: Server, large: Path, suffix: str) -> None:
    target, sha = open_target(board.url), hashlib.sha256(large.read_bytes()).hexdigest()
    (board.root / "store").mkdir(parents=True)
    (board.root / "store" / f"{sha}{suffix}").write_bytes(bytes(SIZE if not suffix else 1000))
    found = deliver(target, sys.executable, Parcel({"large": large}))
    assert found.sent == SIZE
    assert (Path(found.folder) / "large").read_bytes() == large.read_bytes()


def test_a_file_of_another_hash_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"altered!")
    os.close(writer)
    with os.fdopen(reader) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert receive.take(tmp_path, hashlib.sha256(b"as it is").hexdigest(), 0, 8) is False
    receive.signal.alarm(0)
    assert list(tmp_path.iterdir()) == []


def test_old_files_go_and_used_ones_stay(tmp_path: Path) -> None:
    for folder in ("store", "site", "runs"):
        (tmp_path / folder / "old").mkdir(parents=True)
        (tmp_path / folder / "new").mkdir()
        before = time.time() - receive.KEPT - 10
        os.utime(tmp_path / folder / "old", (before, before))
    receive.sweep(tmp_path)
    assert {path.name for path in tmp_path.glob("*/*")} == {"new"}


def test_the_package_is_one_file_that_is_equal_every_time(tmp_path: Path) -> None:
    write_package(tmp_path / "a.zip")
    write_package(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    shutil.unpack_archive(tmp_path / "a.zip", tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").rglob("*")}
    assert {"speak.py", "worker.py", "errors.py", "METADATA"} <= names
    assert "torch_bundle.py" not in names


def survey(**changes) -> Survey:
    modules = dict.fromkeys(("numpy", "onnxruntime", "soundfile"))
    facts = {"executable": "python3", "python": (3, 12), "system": "Linux", "machine": "aarch64", "pointer_bits": 64}
    return Survey(**{**facts, "glibc": "2.36", "host": "pi", "cores": 4, "modules": modules, **changes})


def test_wheels_are_those_of_the_target(tmp_path: Path) -> None:
    tags = platform_tags(survey())
    assert tags[0] == "manylinux_2_36_aarch64"
    assert tags[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert platform_tags(survey(pointer_bits=32))[0] == "manylinux_2_36_armv7l"  # a 64-bit kernel under 32-bit programs
    with pytest.raises(TargetError, match="--wheels"):
        platform_tags(survey(glibc=None))
    assert find_wheels(survey(modules=dict.fromkeys(("numpy",), "2.0")), None) == ()
    with pytest.raises(TargetError, match="no wheel of numpy"):
        find_wheels(survey(), tmp_path)


@needs_sshd
def test_wheels_are_unpacked_once(board: Server, tmp_path: Path) -> None:
    for name in ("numpy", "onnxruntime", "soundfile"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_stand_in.py").write_text(f"name = {name!r}\n")
        shutil.make_archive(str(tmp_path / f"{name}-1-py3-none-any"), "zip", tmp_path / name)
        (tmp_path / f"{name}-1-py3-none-any.zip").rename(tmp_path / f"{name}-1-py3-none-any.whl")
    parcel = Parcel({}, find_wheels(survey(), tmp_path))
    first = deliver(open_target(board.url), sys.executable, parcel)
    second = deliver(open_target(board.url), sys.executable, parcel)
    assert first.site == second.site
    assert {path.name for path in Path(first.site).iterdir()} == {
        f"{n}_stand_in.py" for n in ("numpy", "onnxruntime", "soundfile")
    }
    assert len(list((board.root / "site").iterdir())) == 1
