"""Recordings and words → tokens: what the runtime would make of them, made once, by any number of processes."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.corpus.tokens import Tokeniser
from sottovoce.errors import CorpusError, OutputError
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.clip import levelled
from tests.compress.corpora import RATE, manifest, tone, words
from tests.tiny import CODEC, CODES


def tokeniser(voice, cache):
    return Tokeniser(Voice.open(voice), cache)


@pytest.fixture
def encoded(monkeypatch):
    """How many recordings went through a codec."""
    calls = []
    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda self, audio: calls.append(1) or encode(self, audio))
    return calls


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    for i in range(5):
        tone(folder / f"{i}.wav", pitch=200 + 40 * i)
    return manifest(folder, *({"audio": f"{i}.wav", "text": words(i)} for i in range(5)))


def test_tokens_are_the_codecs_and_the_front_ends(tiny_voice, tmp_path, corpus):
    spoken = tokeniser(tiny_voice, tmp_path / "cache").load(read_corpus(corpus)).spoken
    audio, _ = soundfile.read(corpus / "1.wav", dtype="float32")
    assert len(audio) % CODEC.hop == 0
    wanted = Codec.load(tiny_voice / "codec").encode(torch.from_numpy(levelled(audio, CODEC.level))[None])[0]
    assert spoken[1].codes.tolist() == wanted.tolist()
    symbols = json.loads((tiny_voice / "text.json").read_text())["symbols"]
    assert spoken[1].text.tolist() == [symbols[c] for c in words(1)]


def test_other_sample_rates_are_resampled_and_a_rest_is_dropped(tiny_voice, tmp_path):
    tone(tmp_path / "c/a.wav", 0.2, rate=44100)
    tone(tmp_path / "c/b.wav", 0.2 + 100 / RATE)
    manifest(tmp_path / "c", {"audio": "a.wav", "text": "a"}, {"audio": "b.wav", "text": "b"})
    spoken = tokeniser(tiny_voice, tmp_path / "cache").load(read_corpus(tmp_path / "c")).spoken
    assert [len(s.codes) for s in spoken] == [int(0.2 * RATE) // CODEC.hop] * 2


def test_several_sentences_are_read_in_one_go(tiny_voice, tmp_path):
    tone(tmp_path / "c/a.wav")
    manifest(tmp_path / "c", {"audio": "a.wav", "text": "Good king. Just in?"})
    (spoken,) = tokeniser(tiny_voice, tmp_path / "cache").load(read_corpus(tmp_path / "c")).spoken
    symbols = json.loads((tiny_voice / "text.json").read_text())["symbols"]
    assert spoken.text.tolist() == [symbols[c] for c in "good king. just in?"]


def test_processes_share_the_work_and_it_is_done_once(tiny_voice, tmp_path, corpus, encoded):
    found, seen = read_corpus(corpus), []
    for rank in range(2):
        tokeniser(tiny_voice, tmp_path / "cache").prepare(found, rank, 2, seen.append)
    assert (len(encoded), seen) == (5, [1, 2, 3, 1, 2])
    first = tokeniser(tiny_voice, tmp_path / "cache").load(found).spoken
    assert len(encoded) == 5
    fresh = tokeniser(tiny_voice, tmp_path / "elsewhere").load(found).spoken
    assert [s.codes.tolist() for s in first] == [s.codes.tolist() for s in fresh]


def test_a_killed_run_goes_on_and_damage_is_mended(tiny_voice, tmp_path, corpus, encoded):
    found = read_corpus(corpus)
    maker = tokeniser(tiny_voice, tmp_path / "cache")
    first = maker.load(found).spoken
    kept = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.npy")}
    codes = [path for path in kept if np.load(path).max() < CODES]
    assert (len(kept), len(codes)) == (10, 5)
    codes[0].unlink()
    codes[1].write_bytes(kept[codes[1]][:-3])
    codes[2].write_bytes(b"")
    again = maker.load(found).spoken
    assert len(encoded) == 8
    assert [s.codes.tolist() for s in again] == [s.codes.tolist() for s in first]
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()} == kept


def test_what_changed_is_made_again(tiny_voice, tmp_path, corpus, encoded):
    found = read_corpus(corpus)
    tokeniser(tiny_voice, tmp_path / "cache").load(found)
    tone(corpus / "2.wav", pitch=999)
    tokeniser(tiny_voice, tmp_path / "cache").load(found)
    assert len(encoded) == 6
    voice = shutil.copytree(tiny_voice, tmp_path / "voice")
    text = json.loads((voice / "text.json").read_text())
    text["symbols"]["a"], text["symbols"]["b"] = text["symbols"]["b"], text["symbols"]["a"]
    (voice / "text.json").write_text(json.dumps(text))
    spoken = tokeniser(voice, tmp_path / "cache").load(found).spoken
    assert (len(encoded), spoken[0].text[0]) == (6, text["symbols"]["a"])
    codec = Codec.load(voice / "codec")
    with torch.no_grad():
        codec.encoder.out[1].weight.mul_(-1)
    codec.save(voice / "codec")
    other = tokeniser(voice, tmp_path / "cache").load(found).spoken
    assert len(encoded) == 11
    assert other[0].codes.tolist() != spoken[0].codes.tolist()


def test_all_that_cannot_be_used_is_counted_and_listed(tiny_voice, tmp_path):
    folder = tmp_path / "c"
    good = tone(folder / "good.wav").name
    tone(folder / "silent.wav", level=1e-5)
    tone(folder / "short.wav", 0.005)
    tone(folder / "words.wav")
    (folder / "garbage.wav").write_bytes(b"RIFF, or is it?")
    (folder / "garbage.npy").write_bytes(b"\x80\x04N.")
    np.save(folder / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.save(folder / "floats.npy", np.zeros(3))
    np.save(folder / "beyond.npy", np.array([0, CODES]))
    np.save(folder / "below.npy", np.array([-1, 0]))
    np.save(folder / "none.npy", np.zeros(0, np.int64))
    huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (9000000000000,), }".ljust(
        117
    )
    (folder / "huge.npy").write_bytes(huge + b"\n")
    wrong = {
        "absent.wav": "no such file",
        "silent.wav": "silent",
        "short.wav": "80 samples, a code takes 160",
        "garbage.wav": "is not audio that soundfile reads",
        "absent.npy": "no such file",
        "garbage.npy": "not a .npy file of codes",
        "pickled.npy": "not a .npy file of codes",
        "floats.npy": "not a .npy file of whole numbers",
        "beyond.npy": "code 48, the voice has 0 to 47",
        "below.npy": "code -1, the voice has 0 to 47",
        "none.npy": "no codes",
        "huge.npy": "not a .npy file of codes",
    }
    rows = [{name.split(".")[1].replace("wav", "audio").replace("npy", "codes"): name, "text": "a"} for name in wrong]
    manifest(folder, {"audio": good, "text": "a"}, {"audio": "words.wav", "text": "你好"}, *rows)
    maker = tokeniser(tiny_voice, tmp_path / "cache")
    maker.prepare(read_corpus(folder))
    with pytest.raises(CorpusError, match=r"13 of 14 utterances cannot be used \(.*--skip-bad\)") as caught:
        maker.load(read_corpus(folder))
    for name, why in {**wrong, "words.wav": "cannot say"}.items():
        assert f"{name}: {why}" in str(caught.value)
    tokens = maker.load(read_corpus(folder), skip_bad=True)
    assert [s.id for s in tokens.spoken] == [good]
    assert len(tokens.problems) == 13
    manifest(folder, {"audio": "absent.wav", "text": "a"})
    with pytest.raises(CorpusError, match=r"1 of 1 .*nothing is left"):
        maker.load(read_corpus(folder), skip_bad=True)


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_corpus(tiny_voice, tmp_path, corpus):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match=r"cache/.*cannot be written"):
        tokeniser(tiny_voice, tmp_path / "cache").prepare(read_corpus(corpus))
