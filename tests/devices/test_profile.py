"""A profile is taken in a process of its own, adds up, and tells errors as if they had happened here."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.devices import command, profile
from sottovoce.devices.profile import read_profile, summarise
from sottovoce.devices.worker import Utterance
from sottovoce.errors import BundleError
from tests import tiny


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "report.json"
    options = ["--text", "hello there", "--runs", "2", "--threads", "1", "-o", str(path)]
    assert main(["profile", str(tiny_bundle), *options]) == 0
    return read_profile(path)


def test_memory_adds_up(report, tiny_bundle: Path) -> None:
    memory = report.memory
    assert memory.weights == sum((tiny_bundle / n).stat().st_size for n in weights(tiny_bundle))
    assert memory.peak == memory.weights + memory.cache + memory.rest
    assert memory.resident <= memory.peak
    assert memory.proportional is None or memory.proportional <= memory.resident


def weights(bundle: Path) -> list[str]:
    """Names of the weight files."""
    return [path.name for path in bundle.iterdir() if path.suffix in (".onnx", ".data")]


def test_stages_come_in_order_and_peaks_never_fall(report) -> None:
    assert [stage.name for stage in report.stages] == ["interpreter", "imports", "load", "first utterance", "steady"]
    peaks = [stage.memory.peak for stage in report.stages]
    assert all(b > 0.99 * a for a, b in itertools.pairwise(peaks))  # the kernel's counters lag a little
    assert peaks[1] > peaks[0] + 10e6  # numpy and onnxruntime


def test_this_process_does_not_count(tiny_bundle: Path) -> None:
    ballast = b"x" * 300_000_000
    found = profile.profile_bundle(tiny_bundle, "hello", runs=1, threads=1)
    assert found.memory.peak < len(ballast)


def test_times_are_those_of_an_utterance(report) -> None:
    timing = report.timing
    assert set(timing.load) == {"hashes", "decoder", "codec", "text"}
    assert 0 < timing.step_p50 <= timing.step_p95 < timing.rtf * timing.audio
    assert 0 < timing.ttfa <= timing.rtf * timing.audio * 1.5
    assert (report.runs, report.threads) == (2, 1)


def test_a_decoder_alone_has_steps_but_no_sound(tmp_path: Path, capsys) -> None:
    tiny.save_decoder(tmp_path / "bare", tiny.hf_config("llama"))
    options = ["--decoder-only", "--prefix", "20", "--window", "16", "--threads", "1"]
    assert main(["export", str(tmp_path / "bare"), "-o", str(tmp_path / "bundle"), *options]) == 0
    found = profile.profile_bundle(tmp_path / "bundle", runs=1, threads=1)
    assert (found.timing.rtf, found.timing.audio, found.text) == (None, None, None)
    assert found.timing.step_p50
    capsys.readouterr()
    assert main(["profile", str(tmp_path / "bundle"), "--text", "hello", "--threads", "1"]) == 2
    assert "--text" in capsys.readouterr().err


def test_medians_leave_the_first_utterance_out() -> None:
    slow, fast = Utterance(9.0, 8.0, 1.0, (9.0,)), Utterance(0.5, 0.1, 1.0, (0.1, 0.2, 0.3, 0.4))
    timing = summarise([slow, fast, replace(fast, busy=0.7), replace(fast, busy=0.6)], {})
    assert (timing.first_ttfa, timing.ttfa, timing.rtf) == (8.0, 0.1, 0.6)
    assert (timing.step_p50, timing.step_p95) == (0.3, 0.4)


def test_a_voice_that_makes_no_sound_has_no_time_to_it() -> None:
    silent = Utterance(0.5, None, 0.0, ())
    timing = summarise([silent, silent, replace(silent, busy=0.7)], {})
    assert (timing.first_ttfa, timing.ttfa, timing.rtf, timing.audio) == (None, None, None, None)


def test_an_error_of_the_worker_is_one_line_here(tmp_path: Path, tiny_bundle: Path, capsys) -> None:
    assert main(["profile", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err
    assert main(["profile", str(tiny_bundle), "--text", "", "--threads", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["profile", str(tiny_bundle), "--runs", "0"]) == 2


def test_an_output_that_cannot_be_written_is_known_before_measuring(tiny_bundle: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(command, "profile_bundle", lambda *_: pytest.fail("measured in vain"))
    assert main(["profile", str(tiny_bundle), "-o", str(tmp_path)]) == 2
    assert main(["profile", str(tiny_bundle), "-o", str(tmp_path / "none" / "report.json")]) == 2


def test_a_worker_that_dies_is_reported(tiny_bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with pytest.raises(BundleError, match="ended with status 1"):
        profile.profile_bundle(tiny_bundle)


def test_a_report_survives_its_file(report, tmp_path: Path) -> None:
    (tmp_path / "again.json").write_text(report.to_json())
    assert read_profile(tmp_path / "again.json") == report
    (tmp_path / "again.json").write_text(json.dumps(json.loads(report.to_json()) | {"colour": "red"}))
    with pytest.raises(BundleError, match="colour"):
        read_profile(tmp_path / "again.json")
