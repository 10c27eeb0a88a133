"""The driver of the peers: turns of real processes, what fails leaves a line, tables, gates. No network."""

import re
import sys
from pathlib import Path

import pytest
from benchmarks.peers import __main__ as command
from benchmarks.peers import environments, prepared
from benchmarks.peers.__main__ import main, save, saved
from benchmarks.peers.contenders import ENTRIES, GATES, OURS
from benchmarks.peers.environments import PeerError, interpreter
from benchmarks.peers.rounds import CHECK, WARM, Ready, Row, Setting, measure
from benchmarks.peers.table import report, table

from tests.models.shapes import CONFIGS

SETTING = Setting(points=(100, 300), rounds=2, steps=3, threads=1, loads=2)


def fakes(folder: Path, **formats: str) -> tuple[dict[str, Ready], dict[str, Row]]:
    serve = [sys.executable, "-m", "tests.benchmarks.fake_peer", "serve"]
    ready = {name: Ready(serve, folder / name, format, folder / f"{name}.log") for name, format in formats.items()}
    return ready, {name: Row() for name in formats}


def test_turns(tmp_path: Path) -> None:
    ready, rows = fakes(tmp_path, a="fine", b="fine")
    said: list[str] = []
    measure(ready, rows, SETTING, said.append)
    assert said == ["reading on to 100 tokens", "reading on to 300 tokens"]
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert log[:4] == [f"{name} opened with 1 threads for 512" for name in "abab"]
    assert {"a read [0, 7]…64, 10 ahead", "b read [448, 455]…100, 10 ahead"} <= set(log)  # 7 · 64
    turns = [line.split()[0] for line in log if "step" in line]
    assert turns == [name for _ in range(4) for name in "ab" for _ in range(WARM + 3)]
    assert log.index("a step 9") > 7
    for row in rows.values():
        assert (row.error, len(row.loads)) == ("", 2) and row.agrees == pytest.approx(1)
        assert {point: len(turns) for point, turns in row.steps.items()} == {100: 2, 300: 2}
        assert all(0.002 <= seconds < 1 for turns in row.steps.values() for seconds in turns)
        assert 1e6 < row.peaks[100] <= row.peaks[300] < 1e9
    assert (tmp_path / "a.log").read_text() == "a library that prints\n"


def test_one_that_fails_keeps_what_it_had_and_the_rest_goes_on(tmp_path: Path) -> None:
    ready, rows = fakes(tmp_path, raises="raises", fine="fine", dies="dies")
    measure(ready, rows, SETTING, lambda line: None)
    assert rows["raises"].error == "read: MemoryError: no room | left"
    assert rows["dies"].error == "read: signal 4: a library that prints"
    assert list(rows["raises"].steps) == list(rows["dies"].peaks) == [100]
    assert list(rows["fine"].steps) == [100, 300]


def test_a_point_behind_the_context_is_refused(tmp_path: Path) -> None:
    ready, rows = fakes(tmp_path, a="fine")
    measure(ready, rows, Setting(points=(100, 104), rounds=1, steps=3, loads=1), lambda line: None)
    assert rows["a"].error == "read: ValueError: 105 tokens were read already: 104 is behind"


def test_main_measures_ours_and_says_what_could_not_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def offline(module: str, cache: Path) -> Path:
        if environments.requirements(module):
            raise PeerError("exit status 1: ERROR: no network")
        return Path(sys.executable)

    monkeypatch.setattr(prepared, "interpreter", offline)
    only = ["--only", "ours-int4", "genai-int4", "ours-fp32", "--points", "80", "300", "--rounds", "2", "--steps", "3"]
    run, plot = tmp_path / "run.json", tmp_path / "plot.png"
    config = CONFIGS["qwen2_tied"] | {"vocab_size": 1000}
    assert main([*only, "--cache", str(tmp_path), "--json", str(run), "--plot", str(plot)], config) == 0
    printed = capsys.readouterr().out
    assert "| onnxruntime-genai int4: **exit status 1: ERROR: no network** | – | – | – | – | – | – |" in printed
    rows, _ = saved(run)
    assert list(rows) == ["ours-int4", "genai-int4", "ours-fp32"]
    assert rows["ours-int4"].agrees == pytest.approx(1) and 0.9 < rows["ours-fp32"].agrees < 1.0  # type: ignore[operator]
    assert plot.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(command, "prepare", None)  # a saved run needs nothing of it
    assert main(["--table", str(run)]) == 0 and capsys.readouterr().out == printed


def rows_of(**milliseconds: dict[int, float]) -> dict[str, Row]:
    found = {name.replace("_int", "-int"): times for name, times in milliseconds.items()}
    return {name: Row(steps={p: [ms / 1e3] * 3 for p, ms in times.items()}) for name, times in found.items()}


def test_table() -> None:
    rows = rows_of(ours_int4={100: 10.0, 384: 10.0}, genai_int4={100: 12.5})
    rows["genai-int4"].peaks, rows["genai-int4"].loads = {100: 200_000_000, 384: 300_000_000}, [3.0, 1.0, 1.25]
    rows["genai-int4"].size, rows["genai-int4"].agrees = 150_000_000, 0.9876
    rows["genai-int4"].steps[100][0] = 9.0  # a noisy turn
    lines = table(rows, [100, 384])
    assert lines[2] == "| sottovoce int4, W 512 | 10.0 ms | 10.0 ms | – | – | – | – |"
    assert lines[3] == "| onnxruntime-genai int4 | 12.5 ms (1.25 ×) | – | 200 … 300 | 1.25 | 150 | 0.988 |"


@pytest.mark.parametrize("changed", [None, *((gate.name, gate.point) for gate in GATES)])
def test_gates(capsys, changed) -> None:
    ours = dict.fromkeys((100, 384, 1000, 2000, 6000), 10.0)
    rows = rows_of(ours_int4=ours, genai_int4={384: 10.6, 2000: 15.5, 6000: 26.5})
    rows |= {"llama-q4_0": Row(steps={384: [0.0126], 2000: [0.0155]})}
    if changed:
        rows[changed[0]].steps[changed[1]] = [0.0104] * 3
    assert report(rows) == (changed is None)
    said = capsys.readouterr().out
    assert said.count("ok  ") + said.count("MISS") == len(GATES)
    assert ("at 384 tokens / llama.cpp Q4_0: 0.794 (at most 0.8)" in said) == (changed is None or changed[1] != 384)


def test_gates_of_what_was_not_measured_are_not_judged(capsys) -> None:
    assert report(rows_of(ours_int4={384: 10.0}))
    assert capsys.readouterr().out == ""


def test_peers_have_their_pins_and_this_project_none() -> None:
    for entry in ENTRIES.values():
        lines = [line for line in environments.requirements(entry.module).splitlines() if not line.startswith("#")]
        assert bool(lines) == (entry.module not in {OURS, "growing", "together"}) and all("==" in pin for pin in lines)
        assert (Path(environments.__file__).parent / f"{entry.module}.py").exists()
        assert not entry.beside or ENTRIES[entry.beside].module == OURS


@pytest.mark.parametrize(
    ("flags", "built_with"),
    [("avx2 fma", []), ("avx2 avx512f avx512vbmi", ["", "_VBMI"]), (None, ["", "_VBMI", "_VNNI"])],
)
def test_llama_is_built_for_instructions_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, built_with: list[str]
) -> None:
    monkeypatch.setattr(environments, "PROCESSOR", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    pins = environments.requirements("llama")
    assert re.findall(r"-DGGML_AVX512(\w*)=ON;", pins) == built_with
    assert "-DGGML_AVX2=ON;" in pins and pins.count("\n") == 4


def test_environments_are_made_once_and_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "HERE", tmp_path)
    pins, cache = tmp_path / "peer.txt", tmp_path / "cache"
    assert interpreter(OURS, cache) == Path(sys.executable) and not cache.exists()
    pins.write_text("--no-index\nnothing-of-this-name==1\n")
    with pytest.raises(PeerError, match="exit status 1: ERROR: No matching distribution found for nothing-of"):
        interpreter("peer", cache)
    assert not (cache / "peer.txt").exists()  # a failure is not taken for an environment
    pins.write_text("# nothing\n")
    python = interpreter("peer", cache)
    with (cache / "peer.log").open("wb") as log:
        environments.run([str(python), "-c", "import sys; assert sys.prefix != sys.base_prefix"], log)
    ran: list[object] = []
    monkeypatch.setattr(environments, "run", lambda *args: ran.append(args))
    assert interpreter("peer", cache) == python and not ran
    pins.write_text("# other pins\n")
    interpreter("peer", cache)
    assert len(ran) == 2


def test_a_run_is_read_back(tmp_path: Path) -> None:
    rows = rows_of(ours_int4={100: 10.0, 384: 11.0})
    rows["ours-int4"].peaks = {100: 5}
    save(tmp_path / "run.json", rows, 2)
    read, title = saved(tmp_path / "run.json")
    assert read == rows and ", 2 of " in title
    assert min(Setting().points) > CHECK
