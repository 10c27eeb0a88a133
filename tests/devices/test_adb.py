"""A device reached by adb: a real adbd, in a network namespace of its own."""

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.devices.report import read_profile
from sottovoce.devices.targets.probe import probe
from sottovoce.devices.targets.ship import Parcel, deliver
from sottovoce.devices.targets.target import open_target, start
from sottovoce.errors import TargetError
from tests.devices.boards import board
from tests.devices.interrupted import leaves_nothing
from tests.devices.test_ssh import ODD

SERIAL = "adb://127.0.0.1:6555"

LACKING = board.lacking("adb", "ip", "nsenter")
needs_adb = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


@pytest.fixture(scope="module")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `adb` that sees the device, whose cache is in `cache`."""
    folder = tmp_path_factory.mktemp("adb")
    with board.adbd({"XDG_CACHE_HOME": str(folder / "cache")}) as inside:
        real = shutil.which("adb")
        (folder / "adb").write_text(f'#!/bin/sh\nexec {shlex.join(inside)} {real} "$@"\n')
        (folder / "adb").chmod(0o755)
        yield folder


@pytest.fixture
def device(adb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", f"{adb}:{os.environ['PATH']}")
    return SERIAL


@needs_adb
def test_arguments_streams_and_status(device: str) -> None:
    target = open_target(device)
    process = start(target, [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *ODD])
    assert json.loads(process.communicate()[0]) == ODD
    process = start(target, ["sh", "-c", "cat; echo two >&2; exit 7"])
    assert process.communicate(bytes(range(256))) == (bytes(range(256)), b"two\n")
    assert process.returncode == 7


@needs_adb
def test_files_arrive_whole(device: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    found = deliver(open_target(device), sys.executable, Parcel({"a/large": tmp_path / "large"}))
    assert (Path(found.folder) / "a" / "large").read_bytes() == (tmp_path / "large").read_bytes()
    shutil.rmtree(found.folder)


@needs_adb
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(TargetError, match=r"knows no device 10\.0\.0\.1:5"):
        probe(open_target("adb://10.0.0.1:5"))


@needs_adb
def test_one_command_profiles_over_adb(device: str, tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    options = ["--on", device, "--python", sys.executable, "--text", "hello there", "--runs", "1", "--threads", "1"]
    assert main(["profile", str(tiny_bundle), *options, "-o", str(path)]) == 0
    assert read_profile(path).target == device


@needs_adb
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_nothing_is_left_running(device: str, adb: Path, tiny_bundle: Path, number: signal.Signals) -> None:
    leaves_nothing(device, adb / "cache" / "sottovoce", tiny_bundle, number)
