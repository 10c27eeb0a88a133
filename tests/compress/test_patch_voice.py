"""`sottovoce compress patch`, whole: what it writes, with two processes, through a kill, and what is refused."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.__main__ import main
from sottovoce.compress.metrics import read_rows
from sottovoce.compress.patch_voice import patches_seen
from sottovoce.compress.training_state import STATE
from sottovoce.models.voice import Voice
from tests.compress.corpora import coded_corpus, toy_recipe
from tests.compress.test_window_voice import free_port, refused, start
from tests.tiny import save_voice, voice_section

STEPS = 8
FILES = ("model.safetensors", "patch.safetensors")
CHANGES = {
    "tokens = 16384": "tokens = 400",
    "rank = 64 ": "rank = 4",
    "\nlr = 5e-5": "\nlr = 1e-3",
    "\nlr = 1e-4": "\nlr = 3e-3",
    '"bf16"': '"fp32"',
    "checkpoint_every = 200": "checkpoint_every = 3",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coded_corpus(tmp_path_factory.mktemp("corpora") / "codes", 20)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recipe, for a toy."""
    return toy_recipe("patch", CHANGES, tmp_path_factory.mktemp("recipes"))


def command(voice: Path, corpus: Path, recipe: Path, output: Path, *more: str) -> list[str]:
    """A command line; options in `more` go before those here."""
    places = [str(voice), "-o", str(output), "--distill", str(corpus), "--recipe", str(recipe)]
    return ["compress", "patch", *places, "--steps", str(STEPS), "--threads", "1", *more]


@pytest.fixture(scope="module")
def whole(tiny_voice: Path, corpus: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice taught by one process that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "voice"
    assert main(command(tiny_voice, corpus, recipe, output)) == 0
    return output


def test_the_voice_tells_what_was_done(whole: Path, tiny_voice: Path) -> None:
    voice, before = Voice.open(whole), Voice.open(tiny_voice)
    spec = voice.complete()
    assert spec.patch and (spec.patch.patch, spec.patch.speaker, spec.patch.compressor) == (4, "pooled", "attention")
    assert spec.window is None and spec.max_new_tokens == before.complete().max_new_tokens
    (entry,) = spec.history
    assert (entry["method"], entry["source"], entry["patch"]) == ("patch", before.checkpoint.sha256(), 4)
    assert entry["distilled"]["steps"] == STEPS and entry["distilled"]["recipe"]["lora"]["rank"] == 4
    training = whole.with_name("voice.training")
    assert {path.name for path in training.iterdir()} == {"metrics.jsonl", "metrics.png", "left_out.txt"}
    rows = read_rows(training)
    assert len(rows) == STEPS and rows[-1]["ce"] < rows[0]["ce"] and max(row["lr"] for row in rows) == 3e-3


def test_the_backbone_followed(whole: Path, tiny_voice: Path) -> None:
    """Its matrices of attention and feed-forward alone; what was learned beside them is merged."""
    after, before = (load_file(folder / "model.safetensors") for folder in (whole, tiny_voice))
    assert after.keys() == before.keys()
    assert {n for n in after if not torch.equal(after[n], before[n])} == {
        n for n in after if n.endswith("_proj.weight")
    }
    assert sum(p.numel() for p in Voice.open(whole).patches().load().parameters()) > sum(
        p.numel() for p in after.values()
    )


def test_two_processes_learn_what_one_does(
    whole: Path, tiny_voice: Path, corpus: Path, recipe: Path, tmp_path: Path
) -> None:
    arguments, port = command(tiny_voice, corpus, recipe, tmp_path / "voice"), free_port()
    processes = [start(arguments, rank, 2, port) for rank in range(2)]
    said = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    both, one = (read_rows(output.with_name("voice.training")) for output in (tmp_path / "voice", whole))
    for ours, theirs in zip(both, one, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["gradient"] == pytest.approx(theirs["gradient"], rel=1e-2)
    assert Voice.open(tmp_path / "voice").complete().history == Voice.open(whole).complete().history


def test_a_killed_run_ends_with_the_same_weights(
    whole: Path, tiny_voice: Path, corpus: Path, recipe: Path, tmp_path: Path
) -> None:
    arguments = command(tiny_voice, corpus, recipe, tmp_path / "voice")
    call = [sys.executable, "-m", "tests.compress.killed", "update", "5", *arguments]
    killed = subprocess.run(call, capture_output=True, text=True, timeout=500, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "voice").exists() and (tmp_path / "voice.training" / STATE).exists()
    other = [*arguments, "--resume", "--speaker", "none"]
    assert main(other) == 2
    assert main([*arguments, "--resume"]) == 0
    for name in (*FILES, "config.json"):
        assert (tmp_path / "voice" / name).read_bytes() == (whole / name).read_bytes()


def test_a_student_goes_on_learning(
    whole: Path, tiny_voice: Path, corpus: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From where it was, its teacher still the voice before; what it learned first is told."""
    arguments = command(tiny_voice, corpus, recipe, tmp_path / "voice", "--student", str(whole))
    assert main(arguments) == 0
    entry = Voice.open(tmp_path / "voice").complete().history[-1]
    assert entry["source"] == Voice.open(tiny_voice).checkpoint.sha256()
    assert entry["distilled"]["student"] == {
        "sha256": Voice.open(whole).checkpoint.sha256(),
        "distilled": Voice.open(whole).complete().history[-1]["distilled"],
    }
    first, then = (read_rows(voice.with_name("voice.training")) for voice in (whole, tmp_path / "voice"))
    assert then[0]["ce"] < first[0]["ce"] - 0.01  # the same batch
    other = tmp_path / "other"
    for voice, options, says in (
        (tiny_voice, ["--patch", "6"], "has patch 4, asked for is 6"),
        (tiny_voice, ["--student", str(tiny_voice)], "does not speak in patches"),
        (save_voice(tmp_path / "untaught", window=9), [], "was not made of"),
    ):
        assert says in refused(command(voice, corpus, recipe, other, "--student", str(whole), *options), capsys)
    assert not other.exists()


def test_a_windowed_voice_counts_patches(corpus: Path, recipe: Path, tmp_path: Path) -> None:
    """Ablations at once: no low-rank matrices, no speaker, patches that are means."""
    voice = save_voice(tmp_path / "windowed", window=9)
    options = ["--patch", "6", "--speaker", "none", "--compressor", "mean", "--lora-rank", "0", "--steps", "2"]
    assert main(command(voice, corpus, recipe, tmp_path / "out", *options, "--share")) == 0
    made = Voice.open(tmp_path / "out")
    spec = made.complete()
    assert spec.window == 2 and spec.base == "windowed" and spec.patch and spec.patch.compressor == "mean"
    assert (spec.history[-1]["window"], spec.history[-1]["window_tokens"]) == (2, 9)
    after, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", voice))
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(
        "layers" in name or "speaker" in name for name in load_file(tmp_path / "out" / FILES[1]) if "ext" not in name
    )


@pytest.mark.parametrize(("window", "patch", "seen"), [(None, 4, None), (64, 4, 16), (65, 4, 17), (5, 4, 2), (3, 4, 2)])
def test_windows_in_patches(window: int | None, patch: int, seen: int | None) -> None:
    assert patches_seen(window, patch) == seen


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--distill CORPUS is missing"),
        (["--resume"], "--resume goes with --distill"),
        (["--distill", "nowhere"], "nowhere: no such folder"),
        (["--distill", "nowhere", "--patch", "1"], "--patch 1: at least 2"),
        (["--distill", "nowhere", "--patch", "91"], "longest utterance has 90 tokens"),
        (["--distill", "nowhere", "--lora-rank", "-1"], "--lora-rank -1: 0 (none) or more"),
        (["--distill", "nowhere", "--steps", "0"], "--steps 0: at least 1"),
        (["--distill", "nowhere", "--recipe", "gone.toml"], "gone.toml cannot be read"),
    ],
)
def test_bad_options(
    options: list[str], says: str, tiny_voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(["compress", "patch", str(tiny_voice), "-o", str(tmp_path / "out"), *options], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ([70, "{text}"], "no {prompt_codes} to pool, take --speaker none"),
        ([7, "{text}", "{prompt_codes}"], "token 7 of prompt.layout is a code too"),
        (["{prompt_codes}", "{text}", "{prompt_codes}"], "has 2 {prompt_codes}"),
    ],
)
def test_a_layout_that_patches_cannot_read(
    layout: list[Any], says: str, corpus: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = save_voice(tmp_path / "other", prompt=voice_section()["prompt"] | {"layout": layout})
    assert says in refused(command(voice, corpus, recipe, tmp_path / "out"), capsys)


def test_a_corpus_with_bad_files(
    tiny_voice: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = coded_corpus(tmp_path / "codes", 8)
    (corpus / "003.npy").unlink()
    line = refused(command(tiny_voice, corpus, recipe, tmp_path / "voice"), capsys)
    assert "1 of 8 utterances" in line and "003.npy" in line


LAST = "speaks in patches: compress {} needs a voice of tokens; patch last: prune -> window -> patch"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compress", "patch", "VOICE", "-o", "out", "--distill", "CORPUS"], LAST.format("patch")),
        (["compress", "window", "VOICE", "-o", "out", "--window", "8"], LAST.format("window")),
        (["compress", "window", "VOICE", "--report"], LAST.format("window")),
        (["compress", "window", "PLAIN", "-o", "out", "--window", "8", "--teacher", "VOICE", "--distill", "CORPUS"],
         LAST.format("window")),
        (["compress", "prune", "VOICE", "-o", "out", "--keep", "1", "--index", "cosine"], LAST.format("prune")),
        (["compress", "prune", "VOICE", "-o", "out.json", "--report", "--index", "cosine"], LAST.format("prune")),
        (["export", "VOICE", "--decoder-only", "--prefix", "9", "--window", "9", "-o", "out"], "--decoder-only takes"),
    ],
)  # fmt: skip
def test_what_knows_tokens_alone_refuses(
    arguments: list[str], says: str, whole: Path, tiny_voice: Path, corpus: Path, tmp_path: Path, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    names = {"VOICE": str(whole), "PLAIN": str(tiny_voice), "CORPUS": str(corpus)}
    assert says in refused([names.get(word, word) for word in arguments], capsys)
    assert not list(tmp_path.iterdir())


def test_the_config_is_plain_json(whole: Path) -> None:
    section = json.loads((whole / "config.json").read_text())["sottovoce"]
    sizes = {"heads": 2, "head_dim": 16, "cross_heads": 1, "ff": 48}
    assert section["patch"] == {
        "patch": 4,
        "compressor_layers": {"layers": 1, **sizes},
        "extractor_layers": {"layers": 2, **sizes},
        "compressor": "attention",
        "speaker": "pooled",
        "window": 16,
        "slots": 4,
    }
