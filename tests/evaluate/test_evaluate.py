"""`sottovoce evaluate` on the tiny voice: rows, figures, comparison, gate, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.compress.evaluate import command, reference
from sottovoce.compress.evaluate.evaluator import Evaluator
from sottovoce.compress.evaluate.rows import read_rows, write_rows
from sottovoce.compress.evaluate.synthesise import Subject
from tests import tiny

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")


class Deaf:
    """A judge in no time; it always hears the same."""

    identity = "deaf"

    def hear(self, audio: np.ndarray) -> str:
        assert audio.dtype == np.float32
        return "hello there"


@pytest.fixture(autouse=True)
def _deaf(monkeypatch) -> None:
    monkeypatch.setattr(command, "open_judge", lambda name, weights: Deaf())


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("hello there\n\nhello you\nhello there\n")
    return path


@pytest.fixture
def evaluate(tiny_bundle: Path, sentences: Path, tmp_path: Path, capsys):
    """Runs the command; its exit status, its output and its errors."""

    def run(*words: object, subject: Path = tiny_bundle, output: str = "rows.jsonl") -> tuple[int, str, str]:
        always = (subject, "-o", tmp_path / output, "--sentences", sentences)
        status = main(["evaluate", *map(str, (*always, *words))])
        return (status, *capsys.readouterr())

    return run


def test_rows_and_figures(evaluate, tmp_path: Path) -> None:
    status, out, _ = evaluate("--seeds", 2, "--json")
    assert status == 0
    rows = read_rows(tmp_path / "rows.jsonl")
    texts, speakers = ("hello there", "hello you"), ("ada", "bob")
    assert [row.job for row in rows] == [(t, s, seed) for t in texts for s in speakers for seed in (1, 2)]
    assert len({row.codes for row in rows}) > 1  # seeds and speakers matter
    assert all(row.seconds > 0 and row.stopped and row.busy_seconds for row in rows)
    found = json.loads(out)
    assert found["figures"]["wer"]["value"] == pytest.approx(1 / 4)
    assert set(found["figures"]) == {"wer", "runaways"} and set(found["speakers"]) == {"ada", "bob"}
    assert found["rtf"] > 0 and found["differences"] == {}


def test_what_is_judged_is_not_judged_again(evaluate, monkeypatch, tmp_path):
    evaluate("--speakers", "ada")
    made, row = [], Evaluator.row
    monkeypatch.setattr(Evaluator, "row", lambda self, job: made.append(job.seed) or row(self, job))
    _, out, _ = evaluate("--speakers", "ada", "--seeds", 2)
    assert made == [2, 2]
    assert "wer, %" in out and len(read_rows(tmp_path / "rows.jsonl")) == 4


def test_a_gate_decides_the_exit_status(evaluate, tmp_path: Path) -> None:
    evaluate("--speakers", "ada", output="base.jsonl")
    base = tmp_path / "base.jsonl"
    words = ("--speakers", "ada", "--against", base, "--gate", 1)
    status, out, _ = evaluate(*words)
    assert status == 0 and "difference" in out and "+0.00 [+0.00, +0.00]" in " ".join(out.split())
    rows = read_rows(base)
    write_rows([type(row)(**{**vars(row), "heard": row.said}) for row in rows], base)
    status, out, _ = evaluate(*words)
    assert status == 1 and "+25.00" in out
    write_rows([type(row)(**{**vars(row), "text": "other"}) for row in rows], base)
    assert evaluate(*words)[0] == 2


def test_a_comparison_is_of_what_both_have_as_one_judge_heard_it(evaluate, tmp_path: Path) -> None:
    base = tmp_path / "base.jsonl"
    evaluate("--speakers", "ada", output="base.jsonl")
    rows = read_rows(base)
    stale = [type(row)(**{**vars(row), "heard": "x", "key": "made before"}) for row in rows]
    write_rows([*rows, *stale], base)
    status, out, _ = evaluate("--against", base, "--gate", 0)
    assert status == 0 and "differences are over the 2 of 4 utterances that both have" in out
    assert "+0.00" in next(line for line in out.splitlines() if "wer, %" in line)
    write_rows([type(row)(**{**vars(row), "judge": "sharp, no reference"}) for row in rows], base)
    status, _, told = evaluate("--against", base)
    assert status == 2 and "was judged by 'sharp, no reference', not 'deaf, no reference'" in told


def test_texts_are_checked_before_any_is_spoken(evaluate, sentences: Path, tmp_path: Path, monkeypatch) -> None:
    sentences.write_text("hello\nna\u00efve \u4f60\n")
    status, _, told = evaluate()
    assert status == 2 and "\u4f60': cannot say" in told and not (tmp_path / "rows.jsonl").exists()
    monkeypatch.setattr(command, "words_of", lambda text: "")
    sentences.write_text("hello\n")
    assert "'hello' has no English words" in evaluate()[2]


@needs_flite
def test_a_reference_measures_sound_and_speakers(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "SENTENCES", reference.SENTENCES[:8])
    audio = {name: tmp_path / f"{name}.wav" for name in ("rms", "cyd")}
    flite = reference.Flite().render("hello there", "rms")[:6000]
    for path in audio.values():
        reference_wav(path, flite)
        path.with_suffix(".txt").write_text("hello there")
    status, out, told = evaluate("--speakers", *audio.values(), "--reference", "flite")
    assert status == 0 and "speaker match, %" in out and "mcd, dB" in out
    assert "speaker classifier (awb, kal16, rms, slt): 100.0% of 32 held-out reference clips" in told
    for row in read_rows(tmp_path / "rows.jsonl"):
        known = row.speaker == "rms"
        assert (row.mcd is not None) is (row.recognised is not None) is (row.reference_seconds is not None) is known


def reference_wav(path: Path, audio: np.ndarray) -> None:
    """A clip to prompt with."""
    import soundfile

    soundfile.write(path, audio, 16000)


def test_a_corpus_is_a_reference_and_a_voice_has_likelihood(evaluate, tiny_voice: Path, tmp_path: Path, monkeypatch):
    folder, rng = tmp_path / "corpus", np.random.default_rng(0)
    folder.mkdir()
    with (folder / "manifest.jsonl").open("w") as file:
        for i in range(12):
            speaker, level = ("ada", "bob")[i % 2], (0.1, 0.2)[i % 2]
            reference_wav(folder / f"{i}.wav", rng.normal(0, level, 4000))
            line = {"audio": f"{i}.wav", "text": "hello there" if i < 2 else f"word {'x' * i}", "speaker": speaker}
            file.write(json.dumps(line) + "\n")
    words = ("--reference", folder, "--held-out", folder, "--teacher", tiny_voice)
    status, out, told = evaluate(*words, subject=tiny_voice)
    assert status == 0 and "KL to the teacher 0.0000" in out and "of 12 utterances, 0 left out" in out
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [row.mcd is not None for row in rows] == [row.text == "hello there" for row in rows]
    # Noise of two levels is one speaker to features without level: such a classifier may not judge.
    assert "98% is needed: speaker match is left out" in told and "speaker match," not in out
    monkeypatch.chdir(folder)
    status, out, _ = evaluate("--held-out", ".", "--seeds", 0, subject=tiny_voice)
    assert status == 0 and "wer" not in out and "NLL" in out
    assert len(list((tmp_path / "corpus.tokens").rglob("*.npy"))) == 12 + 11
    listed = folder / "manifest.jsonl"
    listed.write_text(listed.read_text().replace("ada", "eve"))
    told = evaluate("--speakers", "ada", "--reference", folder, subject=tiny_voice, output="other.jsonl")[2]
    assert "none of these sentences by 'ada': no MCD" in told
    (folder / "3.wav").unlink()
    assert "1 cannot be used, the first: 3.wav: no such file" in evaluate("--reference", folder)[2]
    assert "1 of 12 utterances cannot be used" in evaluate("--held-out", folder, "--seeds", 0, subject=tiny_voice)[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", "0"), "--seeds 0 leaves nothing to do"),
        (("--seeds", "-1"), "--seeds counts from 0"),
        (("--gate", "1"), "--gate needs --against"),
        (("--teacher", "x"), "go with --held-out"),
        (("--held-out", "x"), "is a bundle: name the voice"),
        (("--sentences", "nowhere.txt"), "cannot be read"),
        (("--against", "nowhere.jsonl"), "cannot be read"),
        (("--reference", "nowhere"), "no such folder"),
        (("--speakers", "nobody"), "neither a file nor a prompt"),
    ],
)
def test_bad_options_are_one_line(words, said: str, evaluate) -> None:
    status, _, told = evaluate(*words)
    assert status == 2 and said in told and told.count("\n") == 1


def test_rows_of_another_voice_are_left_alone(evaluate, tiny_voice: Path, tmp_path: Path) -> None:
    evaluate("--speakers", "ada")
    before = (tmp_path / "rows.jsonl").read_bytes()
    status, _, told = evaluate("--speakers", "ada", subject=tiny_voice)
    assert status == 2 and "rows of another voice" in told
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_a_voice_that_stays_silent_is_not_judged(evaluate, monkeypatch, tmp_path: Path) -> None:
    say = Subject.say
    monkeypatch.setattr(Subject, "say", lambda *job: (0 * say(*job)[0], say(*job)[1]))
    evaluate("--speakers", "ada")
    assert {row.heard for row in read_rows(tmp_path / "rows.jsonl")} == {""}


def test_a_decoder_alone_cannot_be_judged(evaluate, tmp_path: Path) -> None:
    tiny.save_decoder(tmp_path / "bare", tiny.hf_config())
    status, _, told = evaluate(subject=tmp_path / "bare")
    assert status == 2 and "sottovoce section is missing" in told
