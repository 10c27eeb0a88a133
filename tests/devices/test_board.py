"""An emulated ARM64 board reached by ssh: it is sent all it lacks, and says what this machine says."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import read_profile
from tests.devices.boards import board
from tests.devices.sshd import Server

QEMU = "qemu-aarch64-static"
pytestmark = pytest.mark.skipif(bool(board.lacking(QEMU)), reason=str(board.lacking(QEMU)))


@pytest.fixture(scope="module", params=sorted(board.CORES))
def emulated(request) -> Iterator[Server]:
    with board.emulated(request.param) as server:
        yield server
        shutil.rmtree(server.root / "runs", ignore_errors=True)


def test_it_says_what_this_machine_says(emulated: Server, tiny_bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_SSH", emulated.ssh)
    monkeypatch.setenv("XDG_CACHE_HOME", str(board.folder("cache")))  # wheels are fetched once
    path, page = tmp_path / "report.json", tmp_path / "report.html"
    options = ["--text", "hello there", "--runs", "1", "--threads", "1", "--temperature", "0"]
    outputs = ["-o", str(path), "--html", str(page)]
    assert main(["profile", str(tiny_bundle), "--on", emulated.url, *options, *outputs]) == 0
    report = read_profile(path)
    assert report.machine.architecture == "aarch64"
    here = profile_bundle(tiny_bundle, "hello there", runs=1, threads=1, temperature=0)
    assert report.utterances[0].codes == here.utterances[0].codes
    assert report.utterances[0].codes
    assert page.stat().st_size > 10_000
    assert list((emulated.root / "runs").iterdir()) == []
