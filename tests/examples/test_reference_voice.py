"""The reference voice's recipe, every stage once, in small: two steps of training on two dozen utterances."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.recipe import PatchRecipe, PruneRecipe, WindowRecipe, read_recipe
from sottovoce.models.voice import Voice
from sottovoce.runtime.parse import parse
from sottovoce.runtime.text.frontend import LexiconFrontend
from sottovoce.runtime.text.lexicon import Lexicon

REPOSITORY = Path(__file__).parents[2]
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """Runs a stage's command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    speech = importlib.import_module("examples.reference_voice.speech")
    monkeypatch.setattr(speech, "SHARD", 12)

    def run(name: str, *words: object) -> None:
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        importlib.import_module(f"examples.reference_voice.{name}").main()

    return run


@needs_flite
def test_every_stage_leads_to_a_voice(stage, tmp_path: Path, capsys) -> None:
    lexicon = REPOSITORY / "voices/reference/lexicon.txt"
    stage("speech", "-o", "speech", "--shards", 2)
    stage("train_codec", "mel", "--data", "speech", "-o", "codec", "--steps", 2, "--batch", 2, "--codes", 6)
    stage("tokenise", "--data", "speech", "--codec", "codec", "-o", "codes")
    words = ("--data", "codes", "--lexicon", lexicon, "-o", "decoder", "--tokens", 300)
    stage("train_decoder", *words, "--steps", 1)
    stage("train_decoder", *words, "--steps", 2)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"held_out"' in line]
    assert [row["step"] for row in rows] == [1, 2]
    stage("pack", "--decoder", "decoder", "--codec", "codec", "-o", "voice")
    shutil.copy(lexicon, "voice")
    voice = Voice.open(tmp_path / "voice")
    assert sorted(voice.prompts()) == ["rms", "slt"]
    assert voice.checkpoint.load()
    stage("distil_corpus", "--data", "codes", "-o", "corpus")
    corpus = read_corpus(tmp_path / "corpus")
    assert len(corpus.utterances) == 12 and not corpus.problems
    with np.load("codes/rms-slt_00000.npz") as shard:
        first = np.load(corpus.utterances[0].path)
        assert np.array_equal(first, shard["codes"][: shard["ends"][0]]) and corpus.utterances[0].text in shard["texts"]


@needs_flite
def test_codes_keep_their_meaning_when_only_the_decoder_goes_on(stage) -> None:
    stage("speech", "-o", "speech", "--shards", 1)
    sizes = ("--data", "speech", "--batch", 2, "--codes", 6)
    stage("train_codec", "mel", "-o", "codec", "--steps", 1, *sizes)
    stage("train_codec", "wave", "-o", "codec2", "--codec", "codec", "--steps", 2, *sizes)
    from safetensors.torch import load_file

    before, after = load_file("codec/model.safetensors"), load_file("codec2/model.safetensors")
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"decoder"}


@needs_flite
def test_judging_resumes_and_reports(stage, capsys) -> None:
    words = ("raw", "-o", "raw.jsonl", "--speakers", "rms", "--count")
    stage("judge", *words, 1)
    first = Path("raw.jsonl").read_text()
    stage("judge", *words, 2)
    assert Path("raw.jsonl").read_text().startswith(first)
    assert len(Path("raw.jsonl").read_text().splitlines()) == 2
    stage("judge", "report", "raw.jsonl")
    assert "| raw | 2 |" in capsys.readouterr().out


RECIPES = {
    "reference-w64": ((WindowRecipe, "window", "window.toml"),),
    "reference-p4": ((PatchRecipe, "patch", "patch.toml"),),
    "reference-l3-w64": ((PruneRecipe, "prune", "prune.toml"), (WindowRecipe, "window", "window_l3.toml")),
}
"""By compressed voice, the recipe of each step of its history, and the file here."""


@pytest.mark.parametrize("name", RECIPES)
def test_compressed_voices_tell_the_recipes_that_lie_here(name: str) -> None:
    folder = REPOSITORY / "voices"
    history = Voice.open(folder / name).complete().history
    for entry, (kind, method, file) in zip(history, RECIPES[name], strict=True):
        recipe = read_recipe(kind, method, REPOSITORY / "examples/reference_voice" / file)
        assert entry["method"] == method
        assert parse(kind, entry["distilled"]["recipe"], "history") == recipe  # later keys: defaults
    assert history[0]["source"] == Voice.open(folder / "reference").checkpoint.sha256()


def test_half_the_layers_are_those_of_the_index_beside_them() -> None:
    folder = REPOSITORY / "voices/reference-l3-w64"
    pruned, windowed = Voice.open(folder).complete().history
    assert pruned["index"] == json.loads((folder / "index/oneshot.json").read_text())
    assert pruned["kept"] == [0, 2, 3] and windowed["distilled"]["teacher"] == pruned["source"]


def test_training_text_never_says_a_held_out_word() -> None:
    import random
    import re

    sentences = importlib.import_module("examples.reference_voice.sentences")
    rng = random.Random(5)
    said = {w for _ in range(3000) for w in re.findall(r"[a-z']+", sentences.training_sentence(rng))}
    assert not said & sentences.held_out_words()
    words = [w for line in sentences.general() for w in sentences.normalise(line) if w not in ",.?"]
    assert sum(w in sentences.held_out_words() for w in words) >= len(words) / 5
    trained = {sentences.announcement(rng) for _ in range(20_000)}
    assert not set(sentences.test_sentences(120)) & trained


def test_long_texts_fit_the_voice() -> None:
    sentences, layout = (
        importlib.import_module(f"examples.reference_voice.{name}") for name in ("sentences", "layout")
    )
    frontend = LexiconFrontend(layout.SYMBOLS, Lexicon(REPOSITORY / "voices/reference/lexicon.txt"))
    texts = sentences.long_texts(60)
    assert len(set(texts)) == 60
    assert max(len(frontend.whole(text).ids) for text in texts) <= layout.MAX_TEXT


def test_every_code_has_a_place_in_the_text() -> None:
    """Pauses belong to what comes before, a phone said otherwise to the one it stands for."""
    places = importlib.import_module("examples.reference_voice.corpus").places
    said = [(7, 2), (8, 3), (9, 4), (5, 6)]
    assert places([0, 7, 7, 8, 1, 5, 5, 0], said).tolist() == [2, 2, 2, 3, 4, 6, 6, 6]
    assert places([7, 8, 9, 5], said).tolist() == [2, 3, 4, 6]
    assert places([0, 0], said).tolist() == [2, 2]
