"""`sottovoce compress prune`, whole: what it writes, through kills, and before and after a window."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from sottovoce.__main__ import main
from sottovoce.compress.attention_rows import corpus_rows
from sottovoce.compress.cosine_index import CosineIndex
from sottovoce.compress.distil import beside
from sottovoce.compress.evaluate import judges
from sottovoce.compress.find_index import IndexRequest, find_index
from sottovoce.compress.metrics import read_rows
from sottovoce.compress.training_state import STATE
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import load_bundle
from tests.compress.corpora import coded_corpus, toy_recipe
from tests.compress.test_window_voice import free_port, start
from tests.tiny import save_voice

STEPS, LAYERS = 8, 4
CHANGES = {
    "tokens = 16384": "tokens = 400",
    "lr = 1e-5": "lr = 1e-3",
    '"bf16"': '"fp32"',
    "checkpoint_every = 200": "checkpoint_every = 3",
}


class Deaf:
    """A judge in no time; it always hears the same."""

    identity = "deaf"

    def hear(self, audio: np.ndarray) -> str:
        return "hello there"


@pytest.fixture(autouse=True)
def _deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "open_judge", lambda name, weights: Deaf())


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of four layers whose second one does nothing, and is the first to go."""
    sampling = {"temperature": 0.8, "min_ratio": 0.2, "max_ratio": 0.5, "max_extra": 2}
    folder = tmp_path_factory.mktemp("voices") / "four"
    save_voice(folder, hf={"num_hidden_layers": LAYERS}, sampling=sampling)
    weights = load_file(folder / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.1.{name}.weight"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coded_corpus(tmp_path_factory.mktemp("corpora") / "codes", 24)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped recipes, for a toy."""
    folder = tmp_path_factory.mktemp("recipes")
    return {name: toy_recipe(name, CHANGES, folder) for name in ("prune", "window")}


@pytest.fixture(scope="module")
def recipe(recipes: dict[str, Path]) -> Path:
    """How to prune a toy."""
    return recipes["prune"]


def command(voice: Path, output: Path, *more: str, keep: int = 2) -> list[str]:
    """A command line that prunes by cosines of two utterances."""
    places = ["compress", "prune", str(voice), "-o", str(output), "--keep", str(keep), "--threads", "1"]
    return [*places, *(() if "--index" in more else ("--index", "cosine", "--utterances", "2")), *more]


def learning(corpus: Path, recipe: Path) -> list[str]:
    """The options of a distillation."""
    return ["--distill", str(corpus), "--recipe", str(recipe), "--steps", str(STEPS)]


@pytest.fixture(scope="module")
def whole(voice: Path, corpus: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice distilled by one process that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "voice"
    assert main(command(voice, output, *learning(corpus, recipe))) == 0
    return output


def test_the_voice_tells_what_was_done(whole: Path, voice: Path) -> None:
    made, before = Voice.open(whole), Voice.open(voice)
    (entry,) = made.complete().history
    assert (entry["method"], entry["source"], entry["layers"]) == ("prune", before.checkpoint.sha256(), LAYERS)
    assert len(entry["kept"]) == made.checkpoint.config.layers == 2 and 1 not in entry["kept"]
    assert entry["index"]["kind"] == "cosine" and entry["index"]["utterances"] == 2
    assert entry["distilled"]["steps"] == entry["distilled"]["recipe"]["train"]["steps"] == STEPS
    assert entry["distilled"]["recipe"]["loss"]["matching"] == "dynamic"
    training = whole.with_name("voice.training")
    names = {"metrics.jsonl", "metrics.png", "left_out.txt", "index.json", "index.png"}
    assert {path.name for path in training.iterdir()} == names
    rows = read_rows(training)
    assert set(rows[0]) >= {"loss", "ce", "kl", "hidden", "attention", "embedding", "memory_mb"}
    assert len(rows) == STEPS and rows[-1]["loss"] < rows[0]["loss"]


def test_without_a_corpus_layers_are_copies_and_the_index_is_kept(
    voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(voice, tmp_path / "out", keep=3)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("one-shot cosine index over 2 utterances that the voice said")
    assert said[-1] == f"{tmp_path / 'out'}: layers 0, 2, 3 of 4"
    made, before = (Voice.open(folder).checkpoint.load() for folder in (tmp_path / "out", voice))
    for place, layer in enumerate((0, 2, 3)):
        ours, theirs = made.model.layers[place].state_dict(), before.model.layers[layer].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(made.head, before.head)
    index = tmp_path / "out.training" / "index.json"
    assert main(command(voice, tmp_path / "again", "--index", str(index), keep=3)) == 0
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "again.training").exists()


def test_words_choose_and_the_rows_stay(voice: Path, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("hello there\nhello you\nhello me\n")
    words = ("--index", "wer", "--sentences", str(tmp_path / "s.txt"), "--utterances", "2", "--speakers", "bob")
    assert main(command(voice, tmp_path / "out", *words, "--ranking", "iterative")) == 0
    (entry,) = Voice.open(tmp_path / "out").complete().history
    assert entry["index"]["source"] == "2 sentences of s.txt, by bob, to deaf"
    assert [r["dropped"] for r in entry["index"]["rounds"]] == [[], [3]]  # all are equal: the last one goes
    assert entry["kept"] == [0, 1]
    rows = (tmp_path / "out.training/index.jsonl").read_text().splitlines()
    assert len(rows) == 2 * (1 + 4 + 3)


def test_a_report_makes_no_voice(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["compress", "prune", str(voice), "--report", "--index", "cosine", "--utterances", "1", "--threads", "1"]
    assert main([*call, "-o", str(tmp_path / "i.json")]) == 0
    first = capsys.readouterr().out
    assert "kept" not in first and sorted(p.name for p in tmp_path.iterdir()) == ["i.json", "i.png"]
    known = ["--report", "--index", str(tmp_path / "i.json")]
    assert main(command(voice, tmp_path / "j.json", *known)) == 0
    assert capsys.readouterr().out.count("kept") == 2
    assert (tmp_path / "j.json").read_bytes() == (tmp_path / "i.json").read_bytes() and (tmp_path / "j.png").exists()


def test_a_killed_training_ends_with_the_same_weights(
    whole: Path, voice: Path, corpus: Path, recipe: Path, tmp_path: Path
) -> None:
    arguments = command(voice, tmp_path / "voice", *learning(corpus, recipe))
    call = [sys.executable, "-m", "tests.compress.killed", "update", "5", *arguments]
    killed = subprocess.run(call, capture_output=True, text=True, timeout=500, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "voice").exists() and (tmp_path / "voice.training" / STATE).exists()
    assert main([*arguments, "--resume"]) == 0
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "voice" / name).read_bytes() == (whole / name).read_bytes()


def test_two_processes_learn_what_one_does(
    whole: Path, voice: Path, corpus: Path, recipe: Path, tmp_path: Path
) -> None:
    arguments, port = command(voice, tmp_path / "voice", *learning(corpus, recipe)), free_port()
    processes = [start(arguments, rank, 2, port) for rank in range(2)]
    said = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    both, one = (read_rows(output.with_name("voice.training")) for output in (tmp_path / "voice", whole))
    for ours, theirs in zip(both, one, strict=True):
        for name in ("loss", "ce", "kl", "hidden", "attention", "embedding"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5)
        assert ours["gradient"] == pytest.approx(theirs["gradient"], rel=1e-2)
    histories = [Voice.open(folder).complete().history for folder in (tmp_path / "voice", whole)]
    assert histories[0] == histories[1]


def test_a_windowed_voice_is_measured_under_its_window(voice: Path, corpus: Path, tmp_path: Path) -> None:
    assert main(["compress", "window", str(voice), "-o", str(tmp_path / "w"), "--window", "3", "--threads", "1"]) == 0
    request = IndexRequest("cosine", utterances=2, corpus=corpus)
    opened = Voice.open(tmp_path / "w")
    found = find_index(opened, request, None, tmp_path / "i.json", PartialState(cpu=True))
    rows = corpus_rows(opened, corpus, 2, beside(corpus, ".tokens"), False)
    decoder = opened.checkpoint.load().eval()
    windowed, full = (CosineIndex(decoder, rows, window)((), tuple(range(LAYERS))) for window in (3, None))
    assert found.rounds == (windowed,) != (full,)


def test_prune_then_window_and_window_then_prune(
    voice: Path, corpus: Path, recipes: dict[str, Path], tmp_path: Path
) -> None:
    """Both with distillation; the bundle's manifest tells both."""
    orders: list[list[dict[str, Any]]] = []
    for first, second in (("prune", "window"), ("window", "prune")):
        source = voice
        for method in (first, second):
            target = tmp_path / f"{first}-{method}"
            options = ["--distill", str(corpus), "--steps", "2", "--recipe", str(recipes[method])]
            if method == "prune":
                call = command(source, target, *options)
            else:
                call = [
                    "compress",
                    "window",
                    str(source),
                    "-o",
                    str(target),
                    "--window",
                    "8",
                    "--threads",
                    "1",
                    *options,
                ]
            assert main(call) == 0
            source = target
        made = Voice.open(source)
        assert made.complete().window == 8 and made.checkpoint.config.layers == 2
        orders.append(made.complete().history)
    assert [[entry["method"] for entry in history] for history in orders] == [["prune", "window"], ["window", "prune"]]
    pruned, windowed = orders[0]
    assert windowed["distilled"]["teacher"] == windowed["source"] != pruned["source"]
    bundle = tmp_path / "bundle"
    assert main(["export", str(tmp_path / "window-prune"), "-o", str(bundle), "--weights", "fp32"]) == 0
    manifest = load_bundle(bundle, threads=1).manifest
    assert manifest.history == orders[1]
    assert (manifest.cache.groups[0].layers, manifest.cache.groups[0].window) == (2, 8)


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr of a command that ends with status 2."""
    assert main(arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--keep", "4"], "four has 4 layers, 1 to 3 of them can be kept"),
        (["--keep", "0"], "--keep 0"),
        ([], "--keep N is missing"),
        (["--report", "--ranking", "iterative"], "--keep N is missing"),
        (["--report", "--keep", "9"], "--keep 9"),
        (["--keep", "2", "--resume"], "--resume goes with --distill CORPUS"),
        (["--keep", "2", "--index", "gone.json"], "--index: gone.json cannot be read"),
        (
            ["--keep", "2", "--index", "i.json", "--ranking", "one-shot"],
            "--ranking goes with an index that is measured",
        ),
        (["--keep", "2", "--index", "i.json", "--utterances", "0"], "--utterances goes with an index that is measured"),
        (["--keep", "2", "--steps", "0"], "--steps goes with --distill CORPUS"),
        (["--keep", "2", "--index", "cosine", "--speakers", "ada"], "--speakers goes with --index wer"),
        (["--keep", "2", "--utterances", "0"], "--utterances 0: at least 1"),
        (["--keep", "2", "--sentences", "gone.txt"], "--sentences gone.txt cannot be read"),
        (["--keep", "2", "--speakers", "nobody"], "neither a file nor a prompt"),
        (["--keep", "2", "--distill", "nowhere", "--steps", "0"], "--steps 0: at least 1"),
        (["--report", "--steps", "3"], "--steps goes with training, not with --report"),
        (["--report", "--distill", "x"], "--distill goes with --index cosine"),
        (["--report", "--index", "cosine", "--skip-bad"], "--skip-bad goes with --distill"),
    ],
)
def test_bad_options(
    options: list[str], says: str, voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["compress", "prune", str(voice), "-o", str(tmp_path / "out"), "--threads", "1", *options]
    assert says in refused(call, capsys)
    assert not (tmp_path / "out").exists()


def test_a_report_of_an_index_that_was_not_measured_so_far(voice: Path, tmp_path: Path, capsys: Any) -> None:
    request = IndexRequest("cosine", "iterative", utterances=1)
    find_index(Voice.open(voice), request, 3, tmp_path / "i.json", PartialState(cpu=True))
    call = command(voice, tmp_path / "j.json", "--report", "--index", str(tmp_path / "i.json"), keep=1)
    assert "--keep 1: this index was measured down to 3 layers" in refused(call, capsys)
    assert not (tmp_path / "j.json").exists()


@pytest.mark.parametrize("name", ["i.png", "i.jsonl"])
def test_a_report_does_not_overwrite_its_own_chart_or_rows(name: str, voice: Path, tmp_path: Path, capsys: Any) -> None:
    call = command(voice, tmp_path / name, "--report", "--index", "cosine", "--utterances", "1")
    assert f"{name} is where its chart or rows go: name the index i.json" in refused(call, capsys)
    assert not list(tmp_path.iterdir())


def test_rows_that_are_none_are_told_with_what_mends_it(voice: Path, tmp_path: Path, capsys: Any) -> None:
    rows = tmp_path / "out.training" / "index.jsonl"
    rows.parent.mkdir()
    rows.write_text("garbage\n")
    (tmp_path / "s.txt").write_text("hello there\n")
    said = refused(command(voice, tmp_path / "out", "--index", "wer", "--sentences", str(tmp_path / "s.txt")), capsys)
    assert f"{rows} line 1 is no row of an evaluation" in said and said.endswith("remove the file, or name another")


def test_a_corpus_is_missed_before_layers_are_measured(voice: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "s.txt").write_text("hello there\n")
    words = ("--index", "wer", "--sentences", str(tmp_path / "s.txt"), "--distill", "nowhere")
    assert "nowhere: no such folder" in refused(command(voice, tmp_path / "out", *words), capsys)
    assert not list(tmp_path.glob("out.training/*"))


def test_an_output_that_is_there_stays(voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "exists" in refused(command(voice, tmp_path), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_index_of_another_voice_is_refused(voice: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    index = whole.with_name("voice.training") / "index.json"
    other = shutil.copytree(voice, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 20000.0}))
    assert "measured on other weights" in refused(command(other, tmp_path / "out", "--index", str(index)), capsys)


def test_another_choice_of_layers_is_not_resumed(
    voice: Path, corpus: Path, recipe: Path, whole: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments = command(voice, tmp_path / "voice", *learning(corpus, recipe))
    call = [sys.executable, "-m", "tests.compress.killed", "update", "5", *arguments]
    subprocess.run(call, capture_output=True, timeout=500, check=False)
    again = command(voice, tmp_path / "voice", *learning(corpus, recipe), "--resume", keep=3)
    assert "that run had kept [" in refused(again, capsys)
