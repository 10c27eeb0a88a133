"""The report on windows: of a corpus, of the voice's own speech, as a table and as a file."""

import json
import shutil
from pathlib import Path

import pytest

from sottovoce.compress import attention_report
from sottovoce.compress.attention_report import corpus_rows, report_attention, show_report, spoken_rows, write_report
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
    monkeypatch.setattr(attention_report, "CONSIDERED", 4)
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


def test_report_of_what_the_voice_says(voice: Voice, tmp_path: Path, capsys) -> None:
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
    write_report(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["windows"][0]["window"] == 5
    show_report(report)
    said = capsys.readouterr().out
    assert f"{report.prompt:.1%} on the prompt" in said
    assert f"{report.windows[0].coverage:.1%}" in said
