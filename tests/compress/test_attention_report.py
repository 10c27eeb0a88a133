"""The report on windows: of a corpus, of the voice's own speech, as a table and as a file."""

import json
import shutil
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.compress import attention_rows
from sottovoce.compress.attention_report import report_attention
from sottovoce.compress.attention_rows import corpus_rows, spoken_rows
from sottovoce.errors import CorpusError, OptionError
from sottovoce.models.voice import Voice
from tests.compress.corpora import coded_corpus, manifest


@pytest.fixture(scope="module")
def voice(tiny_voice: Path) -> Voice:
    return Voice.open(tiny_voice)


def test_rows_are_the_longest_utterances(voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = coded_corpus(tmp_path / "c", 12)
    rows = corpus_rows(voice, corpus, 3, tmp_path / "t", skip_bad=False)
    lengths = [len(row.ids) - row.prefix for row in rows]
    assert len(rows) == 3
    assert lengths == sorted(lengths, reverse=True)
    assert all(row.ids[row.prefix - 1] == voice.complete().prompt.layout[-1] for row in rows)
    monkeypatch.setattr(attention_rows, "CONSIDERED", 4)
    fewer = corpus_rows(voice, corpus, 9, tmp_path / "t", skip_bad=False)
    assert len(fewer) == 4
    assert max(len(row.ids) - row.prefix for row in fewer) <= lengths[0]


def test_a_bad_corpus_is_said(voice: Voice, tmp_path: Path) -> None:
    corpus = manifest(tmp_path / "c", {"codes": "none.npy", "text": "a bird."})
    with pytest.raises(CorpusError, match=r"none\.npy"):
        corpus_rows(voice, corpus, 3, tmp_path / "t", skip_bad=False)


def test_a_voice_that_cannot_speak_wants_a_corpus(tiny_voice: Path, tmp_path: Path) -> None:
    mute = shutil.copytree(tiny_voice, tmp_path / "voice", ignore=shutil.ignore_patterns("prompts"))
    with pytest.raises(OptionError, match=r"no preset speaker.*--distill"):
        spoken_rows(Voice.open(mute), 2)


def test_report_of_what_the_voice_says(voice: Voice) -> None:
    rows = spoken_rows(voice, 2)
    assert len(rows) == 2
    assert rows[0].ids[: rows[0].prefix] != rows[1].ids[: rows[1].prefix]
    report = report_attention(voice, rows, "that the voice said", asked=5)
    assert [row.window for row in report.windows] == [5, 32, 64, 91]  # 100 codes a second; 128 and more never wrap
    assert report.prompt + report.generated == pytest.approx(1, abs=1e-5)
    assert report.windows[-1].coverage == pytest.approx(1, abs=1e-5)
    assert report.windows[-1].local == pytest.approx(1)
    assert report.windows[0].coverage == pytest.approx(report.prompt + report.generated * report.windows[0].local)
    assert report.windows[1].cache_bytes == 2 * 2 * (130 + 32) * 16 * 4


def report(voice: Voice, *options: str) -> int:
    """`compress window --report` of the voice; its exit status."""
    return main(["compress", "window", "--report", str(voice.folder), "--threads", "1", *options])


def test_the_command_prints_and_writes(voice: Voice, tmp_path: Path, capsys) -> None:
    corpus = coded_corpus(tmp_path / "c", 12)
    options = ["--distill", str(corpus), "--utterances", "3", "--window", "5"]
    assert report(voice, *options, "-o", str(tmp_path / "report.json")) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    said = capsys.readouterr().out
    assert found["utterances"] == 3
    assert f"{found['prompt']:.1%} on the prompt" in said
    row = found["windows"][0]
    assert ["5", "0.05", f"{row['local']:.1%}", f"{row['coverage']:.1%}", "0.03", "MB"] in map(
        str.split, said.splitlines()
    )
    assert (tmp_path / "c.tokens").is_dir()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps", "3"], "--steps goes with training"),
        (["--skip-bad"], "--skip-bad goes with --distill"),
        (["--window", "1"], "--window 1: at least 2"),
        (["--utterances", "0"], "--utterances 0"),
        (["-o", "/nowhere/report.json"], "no folder /nowhere"),
        (["--distill", "/nowhere"], "/nowhere"),
    ],
)
def test_what_a_report_refuses(voice: Voice, capsys, options: list[str], says: str) -> None:
    assert report(voice, *options) == 2
    assert says in capsys.readouterr().err


def test_utterances_are_a_reports(tiny_voice: Path, capsys) -> None:
    assert main(["compress", "window", str(tiny_voice), "--utterances", "3"]) == 2
    assert "--utterances goes with --report" in capsys.readouterr().err
