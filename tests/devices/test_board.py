"""Emulated ARM boards reached by ssh: sent what they lack, they say what this machine says, or why they cannot."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import read_profile
from tests.devices.boards import board
from tests.devices.sshd import Server

LACKING = board.lacking("qemu-aarch64-static", "qemu-arm-static")
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


@pytest.fixture(scope="module", params=["a53", "a76"])
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


def test_an_old_engine_refuses_with_the_reason(tiny_bundle: Path, monkeypatch, capsys) -> None:
    """A 32-bit board with the engine of its distribution, which cannot run the fused operator."""
    with board.emulated("a7") as server:
        monkeypatch.setenv("SOTTOVOCE_SSH", server.ssh)
        assert main(["profile", str(tiny_bundle), "--on", server.url, "--text", "hello", "--runs", "1"]) == 2
        assert list((server.root / "runs").iterdir()) == []
    assert "this bundle needs onnxruntime 1.22, found 1.21" in capsys.readouterr().err


def test_a_portable_bundle_speaks_there(tiny_voice: Path, tmp_path: Path, monkeypatch) -> None:
    """The same board and engine, and standard operators: it says what the engine here says."""
    options = ["--flavour", "portable", "--weights", "fp32", "--window", "16", "--threads", "1"]
    assert main(["export", str(tiny_voice), "-o", str(tmp_path / "bundle"), *options]) == 0
    here = profile_bundle(tmp_path / "bundle", "hello there", runs=1, threads=1, temperature=0)
    path = tmp_path / "report.json"
    with board.emulated("a7") as server:
        monkeypatch.setenv("SOTTOVOCE_SSH", server.ssh)
        words = ["--text", "hello there", "--runs", "1", "--threads", "1", "--temperature", "0", "-o", str(path)]
        assert main(["profile", str(tmp_path / "bundle"), "--on", server.url, *words]) == 0
    report = read_profile(path)
    assert report.machine.versions["onnxruntime"].startswith("1.21")
    assert report.utterances[0].codes
    assert report.utterances[0].codes == here.utterances[0].codes
