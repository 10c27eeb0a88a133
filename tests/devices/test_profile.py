"""A profile is taken in a process of its own, adds up, and tells errors as if they had happened here."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.devices import command, profile
from sottovoce.devices.memory import Mappings, Memory
from sottovoce.devices.readings import Instruments, Job, Opening, Result, Stage, Utterance
from sottovoce.devices.report import Spread, read_profile
from sottovoce.devices.summary import memory_terms, slope, stage_times, summarise
from sottovoce.devices.supervise import Order, supervise
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


def utterance(busy: float, ttfa: float | None, audio: float, steps: tuple[float, ...]) -> Utterance:
    codes = tuple(range(len(steps)))
    return Utterance(busy, ttfa, audio, 0.1, (0.2,), steps, (), (0.3,), len(steps) + 2, codes, 1000)


def test_medians_leave_the_first_utterance_out() -> None:
    slow, fast = utterance(9.0, 8.0, 1.0, (9.0,)), utterance(0.5, 0.1, 1.0, (0.1, 0.2, 0.3, 0.4))
    spoken = [slow, fast, replace(fast, busy=0.7), replace(fast, busy=0.6)]
    timing = summarise(spoken, {}, {})
    assert (timing.first_ttfa, timing.ttfa, timing.rtf) == (8.0, 0.1, 0.6)
    assert (timing.step_p50, timing.step_p95) == (0.3, 0.4)
    assert timing.tokens_per_second == pytest.approx(4.0)
    assert timing.runs_per_second == 6.0
    step = next(stage for stage in stage_times(spoken) if stage.name == "step")
    assert (step.cold, step.warm) == (Spread(1, 9.0, 9.0, 9.0), Spread(12, 0.3, 0.4, 0.4))


def test_a_voice_that_makes_no_sound_has_no_time_to_it() -> None:
    silent = utterance(0.5, None, 0.0, ())
    timing = summarise([silent, silent, replace(silent, busy=0.7)], {}, {})
    assert (timing.first_ttfa, timing.ttfa, timing.rtf, timing.audio) == (None, None, None, None)
    assert (timing.tokens_per_second, timing.runs_per_second) == (None, None)


def test_growth_is_a_slope() -> None:
    assert slope([5, 7, 9, 11]) == 2
    assert slope([5, 7]) is None


def test_what_was_measured_adds_up(report) -> None:
    """Each term is measured by itself; a tiny voice is mostly Python, whose garbage is a larger share."""
    terms = report.terms
    assert terms.cache > 0
    assert terms.interpreter > 5e6
    assert terms.libraries > 5e6
    assert min(terms.weights_anonymous, terms.arena, terms.weights_mapped, terms.text + 1e6) >= 0
    assert abs(terms.unexplained) < 0.03 * terms.total


@pytest.mark.parametrize(("grown", "arena", "unexplained"), [(30, 30, 0), (50, 40, 10), (-5, 0, -5)])
def test_an_arena_counts_for_what_memory_grew_by(grown: int, arena: int, unexplained: int) -> None:
    """Of a reserved 40; more than that has no name, and neither has what shrank."""
    memory = Memory(0, 0, 0, None)
    stages = [
        Stage(name, 0.0, memory, Mappings(bundle, 10, anonymous, 0), 0, 0.0)
        for name, bundle, anonymous in (("imports", 0, 100), ("load", 20, 180))
    ]
    held = Mappings(20, 10, 180 + 7 + grown, 0)
    result = Result(stages=stages, graphs=[Opening("decoder", 0.0, 70)], cache_touched=7, held=held)
    terms = memory_terms(result, Instruments(60, 40, []))
    assert terms
    assert (terms.arena, terms.unexplained, terms.total) == (arena, unexplained, 217 + grown)
    assert (terms.weights_anonymous, terms.graphs, terms.text, terms.interpreter) == (60, 10, 10, 100)


def test_stages_are_told_apart(report) -> None:
    """Time and memory that are told apart by stage are those of the whole."""
    spoken = report.utterances[1]
    parts = spoken.text + sum(spoken.prefill) + sum(spoken.steps) + sum(spoken.sampling) + sum(spoken.codec)
    assert 0.5 * spoken.busy < parts <= spoken.busy
    assert len(spoken.steps) == len(spoken.sampling) == len(spoken.codes) or len(spoken.steps) + 1 == len(spoken.codes)
    assert {stage.name for stage in report.times if stage.warm} == {"text", "prefill", "step", "sampling", "codec"}
    kinds = {(operator.graph, operator.kind) for operator in report.operators}
    assert ("decoder", "GroupQueryAttention") in kinds
    assert any(graph == "codec_decoder" for graph, _ in kinds)
    assert report.samples
    assert max(sample.anonymous + sample.files for sample in report.samples) <= 1.02 * report.memory.peak
    assert len(report.processors) == report.threads
    assert set(report.timing.reload) == set(report.timing.load)


def test_an_error_of_the_worker_is_one_line_here(tmp_path: Path, tiny_bundle: Path, capsys) -> None:
    assert main(["profile", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err
    assert main(["profile", str(tiny_bundle), "--text", "", "--threads", "1"]) == 2
    assert capsys.readouterr().err.count("sottovoce: ") == 1
    assert main(["profile", str(tiny_bundle), "--runs", "0"]) == 2


def test_an_output_that_cannot_be_written_is_known_before_measuring(tiny_bundle: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(command, "profile_bundle", lambda *_: pytest.fail("measured in vain"))
    assert main(["profile", str(tiny_bundle), "-o", str(tmp_path)]) == 2
    assert main(["profile", str(tiny_bundle), "-o", str(tmp_path / "none" / "report.json")]) == 2


def test_a_worker_that_dies_is_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    found = supervise(Order(Job("a.bundle", "hello", 1, 1), str(tmp_path)))
    assert found["error"] == "BundleError"
    assert "measuring a.bundle ended with status 1" in found["message"]


def test_a_report_survives_its_file(report, tmp_path: Path) -> None:
    (tmp_path / "again.json").write_text(report.to_json())
    assert read_profile(tmp_path / "again.json") == report
    (tmp_path / "again.json").write_text(json.dumps(json.loads(report.to_json()) | {"colour": "red"}))
    with pytest.raises(BundleError, match="colour"):
        read_profile(tmp_path / "again.json")


@pytest.mark.parametrize(
    ("ours", "changes", "said"),
    [(0.011, {}, True), (0.009, {}, False), (0.011, {"threads": 7}, False), (0.011, {"weights": "fp32"}, False)],
)
def test_weights_that_are_slower_than_float32_are_marked(report, tmp_path: Path, capsys, ours, changes, said) -> None:
    timing = report.timing
    plain = replace(report, bundle="plain", weights="fp32", timing=replace(timing, step_p50=0.010))
    small = replace(report, bundle="small", weights="int8", timing=replace(timing, step_p50=ours))
    (tmp_path / "a.json").write_text(plain.to_json())
    (tmp_path / "b.json").write_text(replace(small, **changes).to_json())
    assert main(["profile", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    line = "small: int8 is slower than fp32 on this machine (11.0 ms a step, plain 10.0 ms)"
    assert (line in capsys.readouterr().out.splitlines()) == said
