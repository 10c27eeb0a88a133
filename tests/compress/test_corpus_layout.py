"""The three layouts, and lists that somebody got wrong."""

import pytest

from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.errors import CorpusError
from tests.compress.corpora import manifest, tone


def test_a_manifest_names_recordings_and_codes(tmp_path):
    manifest(tmp_path, {"audio": "b/x.wav", "text": "hi", "speaker": "ada"}, {"codes": "a.npy", "text": "you"})
    codes, audio = read_corpus(tmp_path).utterances
    assert (codes.id, codes.kind, codes.text, codes.speaker) == ("a.npy", "codes", "you", "")
    assert (audio.path, audio.kind, audio.speaker) == (tmp_path / "b/x.wav", "audio", "ada")


def test_ljspeech_is_read_as_it_is(tmp_path):
    (tmp_path / "metadata.csv").write_text('LJ001-0002|in "1900".|in "nineteen hundred".\nLJ001-0001|as written\n')
    first, second = read_corpus(tmp_path).utterances
    assert first.path == tmp_path / "wavs/LJ001-0001.wav"
    assert [u.text for u in (first, second)] == ["as written", 'in "nineteen hundred".']
    assert first.speaker == second.speaker


def test_libritts_is_read_as_it_is_and_says_which_words_are_missing(tmp_path):
    for name in ("103/1240/103_1240_0.0", "103/1241/103_1241_1", "14/208/14_208_2"):
        tone(tmp_path / "train-clean-100" / f"{name}.wav")
        (tmp_path / "train-clean-100" / f"{name}.normalized.txt").write_text(f"words of {name}\n")
    (tmp_path / "train-clean-100/14/208/14_208_2.normalized.txt").unlink()
    (tmp_path / "train-clean-100/103/1241/103_1241_1.wav").unlink()
    corpus = read_corpus(tmp_path)
    assert [(u.speaker, u.text) for u in corpus.utterances] == [
        ("103", "words of 103/1240/103_1240_0.0"),
        ("103", "words of 103/1241/103_1241_1"),
    ]
    assert [u.path.is_file() for u in corpus.utterances] == [True, False]
    assert corpus.problems == ("train-clean-100/14/208/14_208_2.wav: 14_208_2.normalized.txt is missing",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio": "a.wav", "text": "x", "sex": "f"}', r"manifest.jsonl, line 2: unknown key 'sex'$"),
        ('{"audio": "a.wav"}', "line 2: .*text"),
        ('{"text": "x"}', "line 2: audio or codes must name"),
        ('{"text": "x", "audio": "a.wav", "codes": "a.npy"}', "only one of the two"),
        ('{"text": "x", "audio": "../a.wav"}', "line 2: '../a.wav' is outside the corpus folder"),
        ('{"text": "x", "audio": "/etc/passwd"}', "outside the corpus folder"),
        ('{"text": "x", "audio": "first.wav"}', "first.wav stands there twice"),
        ("audio, text", "line 2 is not JSON"),
        ('["a.wav", "x"]', "line 2: expected an object"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    (tmp_path / "manifest.jsonl").write_text('{"audio": "first.wav", "text": "x"}\n' + line + "\n")
    with pytest.raises(CorpusError, match=message):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"), [("LJ1", "line 1: NAME|text"), ("a|b|c|d", "line 1"), ("../x|y", "outside the corpus")]
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    (tmp_path / "metadata.csv").write_text(row + "\n")
    with pytest.raises(CorpusError, match=message.replace("|", r"\|")):
        read_corpus(tmp_path)


def test_a_folder_without_a_corpus_says_what_one_is(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no utterances: a corpus has a manifest.jsonl"):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError, match="no such folder"):
        read_corpus(tmp_path / "absent")
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match=r"manifest.jsonl cannot be read"):
        read_corpus(tmp_path)
