"""`sottovoce compress window`, whole: what it writes, with any number of processes, through kills."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sottovoce.__main__ import main
from sottovoce.compress.metrics import read_rows
from sottovoce.compress.training_state import STATE
from sottovoce.models.voice import Voice
from tests.compress.corpora import coded_corpus, toy_recipe
from tests.tiny import save_voice

STEPS, WINDOW = 20, 6
CHANGES = {
    "tokens = 16384": "tokens = 400",
    "lr = 1e-5": "lr = 1e-3",
    '"bf16"': '"fp32"',
    "checkpoint_every = 200": "checkpoint_every = 3",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coded_corpus(tmp_path_factory.mktemp("corpora") / "codes", 40)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recipe, for a toy."""
    return toy_recipe("window", CHANGES, tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def whole(tiny_voice: Path, corpus: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice distilled by one process that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "voice"
    assert main(command(tiny_voice, corpus, recipe, output)) == 0
    return output


def command(voice: Path, corpus: Path, recipe: Path, output: Path, *more: str) -> list[str]:
    """A distillation's command line."""
    places = [str(voice), "-o", str(output), "--window", str(WINDOW), "--distill", str(corpus)]
    training = ["--recipe", str(recipe), "--steps", str(STEPS), "--threads", "1"]
    return ["compress", "window", *places, *training, *more]


def start(arguments: Sequence[str], rank: int, world: int, port: int) -> subprocess.Popen[str]:
    """One of `world` processes, as torchrun or `accelerate launch` start them."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    environment = {**os.environ, **{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1"}
    call = [sys.executable, "-m", "sottovoce", *arguments]
    return subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def losses(output: Path) -> list[list[float]]:
    """Loss, cross-entropy and KL of each step."""
    return [[row[name] for name in ("loss", "ce", "kl")] for row in rows_of(output)]


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The metrics of the training that made `output`."""
    return read_rows(output.with_name("voice.training"))


def test_the_voice_tells_what_was_done(whole: Path, tiny_voice: Path) -> None:
    voice, before = Voice.open(whole), Voice.open(tiny_voice)
    assert voice.complete().window == WINDOW and before.complete().window is None
    (entry,) = voice.complete().history
    assert entry["method"] == "window" and entry["window"] == WINDOW
    assert entry["source"] == entry["distilled"]["teacher"] == before.checkpoint.sha256()
    assert entry["distilled"]["steps"] == entry["distilled"]["recipe"]["train"]["steps"] == STEPS
    assert voice.prompts() == before.prompts()
    assert (whole / "codec/model.safetensors").read_bytes() == (tiny_voice / "codec/model.safetensors").read_bytes()
    assert (whole / "text.json").read_bytes() == (tiny_voice / "text.json").read_bytes()
    training = whole.with_name("voice.training")
    assert {path.name for path in training.iterdir()} == {"metrics.jsonl", "metrics.png", "left_out.txt"}
    assert [path.name for path in whole.parent.iterdir() if path.name.startswith(".")] == []


def test_the_student_moved_towards_its_teacher(whole: Path, tiny_voice: Path) -> None:
    after, before = (Voice.open(folder).checkpoint.load().head for folder in (whole, tiny_voice))
    assert (after - before).abs().max() > 1e-3
    rows = rows_of(whole)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["window"] > WINDOW and rows[-1]["window"] == WINDOW and rows[-1]["tau"] is None
    assert sum(row["ce"] for row in rows[-4:]) < sum(row["ce"] for row in rows[:4])


def test_two_processes_learn_what_one_does(
    whole: Path, tiny_voice: Path, corpus: Path, recipe: Path, tmp_path: Path
) -> None:
    arguments, port = command(tiny_voice, corpus, recipe, tmp_path / "voice"), free_port()
    processes = [start(arguments, rank, 2, port) for rank in range(2)]
    said = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    both, one = losses(tmp_path / "voice"), losses(whole)
    assert len(both) == len(one) == STEPS
    for ours, theirs in zip(both, one, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    # Adam does not mind a gradient of half the size: a mean where a sum belongs shows here alone.
    norms = [[row["gradient"] for row in rows_of(output)] for output in (tmp_path / "voice", whole)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    weights = [Voice.open(folder).checkpoint.load().state_dict() for folder in (tmp_path / "voice", whole)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-3, rtol=0)


@pytest.mark.parametrize(("where", "count", "kept"), [("update", 2, 0), ("update", 9, 6), ("save", 3, 6)])
def test_a_killed_run_ends_with_the_same_weights(
    whole: Path, tiny_voice: Path, corpus: Path, recipe: Path, tmp_path: Path, where: str, count: int, kept: int
) -> None:
    arguments = command(tiny_voice, corpus, recipe, tmp_path / "voice")
    call = [sys.executable, "-m", "tests.compress.killed", where, str(count), *arguments]
    killed = subprocess.run(call, capture_output=True, text=True, timeout=500, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "voice").exists()
    assert (tmp_path / "voice.training" / STATE).exists() == bool(kept)
    assert main([*arguments, "--resume"]) == 0
    assert (tmp_path / "voice/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert losses(tmp_path / "voice") == losses(whole)


def test_without_a_corpus_only_the_window_is_written(tiny_voice: Path, tmp_path: Path) -> None:
    assert main(["compress", "window", str(tiny_voice), "-o", str(tmp_path / "out"), "--window", "9"]) == 0
    voice, before = Voice.open(tmp_path / "out"), Voice.open(tiny_voice)
    assert voice.complete().window == 9
    assert voice.complete().history == [
        {"method": "window", "source": before.checkpoint.sha256(), "window": 9, "distilled": None}
    ]
    after, ours = voice.checkpoint.load().state_dict(), before.checkpoint.load().state_dict()
    assert all(torch.equal(after[name], ours[name]) for name in ours)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_learned_positions_are_shared_with_the_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voice = save_voice(tmp_path / "gpt2", "gpt2", {"n_embd": 32, "n_head": 2, "n_positions": 512})
    command = ["compress", "window", str(voice), "-o", str(tmp_path / "out"), "--window"]
    assert "512 positions, 130 of them for the prefix" in refused([*command, "383"], capsys)
    assert main([*command, "382"]) == 0
    assert main(["export", str(tmp_path / "out"), "-o", str(tmp_path / "bundle"), "--dry-run"]) == 0


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr of a command that ends with status 2."""
    assert main(arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--window", "1"], "--window 1: at least 2"),
        (["--window", "513"], "has 512 positions"),
        ([], "--window W is missing"),
        (["--window", "8", "--resume"], "--resume goes with --distill"),
        (["--window", "8", "--skip-bad"], "--skip-bad goes with --distill"),
        (["--window", "8", "--utterances", "3"], "--utterances goes with --report"),
        (["--window", "8", "--distill", "nowhere", "--steps", "0"], "--steps 0: at least 1"),
        (["--window", "8", "--distill", "nowhere"], "nowhere: no such folder"),
        (["--window", "8", "--distill", "nowhere", "--recipe", "gone.toml"], "gone.toml cannot be read"),
        (["--window", "8", "--distill", "nowhere", "--teacher", "gone"], "gone"),
    ],
)
def test_bad_options(
    options: list[str], says: str, tiny_voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(["compress", "window", str(tiny_voice), "-o", str(tmp_path / "out"), *options], capsys)
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_there_stays(tiny_voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "exists" in refused(["compress", "window", str(tiny_voice), "-o", str(tmp_path), "--window", "8"], capsys)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_teacher_that_a_recipe_does_not_ask(
    tiny_voice: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.toml"
    alone.write_text(recipe.read_text().replace("\nkl = 1.0", "\nkl = 0.0"))
    arguments = command(tiny_voice, tmp_path, alone, tmp_path / "voice", "--teacher", str(tiny_voice))
    assert "loss.kl is 0" in refused(arguments, capsys)


def test_a_corpus_with_bad_files(
    tiny_voice: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = coded_corpus(tmp_path / "codes", 12)
    (corpus / "003.npy").unlink()
    (corpus / "004.npy").write_bytes(b"no codes")
    arguments = [*command(tiny_voice, corpus, recipe, tmp_path / "voice"), "--steps", "1"]
    line = refused(arguments, capsys)
    assert "2 of 12 utterances" in line and "003.npy" in line and "004.npy" in line
    assert main([*arguments, "--skip-bad"]) == 0
    assert "10 utterances, 2 left out" in capsys.readouterr().err
    assert len((tmp_path / "voice.training/left_out.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("hf", "section", "says"),
    [
        ({"hidden_size": 48}, {}, "hidden_size 48"),
        ({}, {"window": 16}, "attends to 16 tokens"),
        ({}, {"prompt": "moved"}, "differ in prompt.code_offset"),
    ],
)
def test_a_teacher_of_another_shape(
    hf: dict[str, int],
    section: dict[str, Any],
    says: str,
    tiny_voice: Path,
    corpus: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "prompt" in section:
        prompt = json.loads((tiny_voice / "config.json").read_text())["sottovoce"]["prompt"]
        section = {"prompt": prompt | {"code_offset": 1, "code_count": 47}}
    teacher = save_voice(tmp_path / "teacher", "qwen2", hf, **section)
    arguments = command(tiny_voice, corpus, recipe, tmp_path / "voice", "--teacher", str(teacher))
    assert says in refused(arguments, capsys)


def test_a_pruned_voice_learns_from_the_whole_one(tiny_voice: Path, corpus: Path, recipe: Path, tmp_path: Path) -> None:
    teacher = save_voice(tmp_path / "teacher", "qwen2", {"num_hidden_layers": 3})
    arguments = command(tiny_voice, corpus, recipe, tmp_path / "voice", "--teacher", str(teacher))
    assert main([*arguments, "--steps", "1"]) == 0
    (entry,) = Voice.open(tmp_path / "voice").complete().history
    assert entry["distilled"]["teacher"] == Voice.open(teacher).checkpoint.sha256() != entry["source"]
