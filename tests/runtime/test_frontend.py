"""Lexicon look-up, the letter fallback and splitting of long text."""

import json
from pathlib import Path
from typing import Literal

import pytest

from sottovoce.errors import BundleError, TextError
from sottovoce.runtime.manifest import TextSpec
from sottovoce.runtime.text.frontend import Frontend, LexiconFrontend, load_frontend
from sottovoce.runtime.text.lexicon import Lexicon

ENTRIES = {
    "a": "ax",
    "ab": "ae b",
    "ab's": "ae b z",
    "abc": "ey b s",
    "cat": "k ae t",
    "dog": "d ao g",
    "horse": "hh ao r s",
}
PHONES = sorted({p for phones in ENTRIES.values() for p in phones.split()} | {"s", "z"})
SYMBOLS = {
    n: 100 + i
    for i, n in enumerate([" ", ",", ".", "?", *(f"letter:{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *PHONES])
}


@pytest.fixture
def lexicon(tmp_path: Path) -> Lexicon:
    path = tmp_path / "lexicon.txt"
    path.write_text("".join(f"{w}\t{ENTRIES[w]}\n" for w in sorted(ENTRIES)))
    return Lexicon(path)


@pytest.fixture
def frontend(lexicon: Lexicon) -> LexiconFrontend:
    return LexiconFrontend(SYMBOLS, lexicon)


@pytest.mark.parametrize("word", ENTRIES)
def test_every_entry_is_found(lexicon: Lexicon, word: str) -> None:
    assert lexicon.phones(word) == tuple(ENTRIES[word].split())


@pytest.mark.parametrize("word", ["", "aa", "b", "zz", "ca", "cats", "hors"])
def test_other_words_are_not(lexicon: Lexicon, word: str) -> None:
    assert lexicon.phones(word) is None


def test_last_line_may_lack_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("cat\tk ae t\ndog\td ao g")
    assert Lexicon(path).phones("dog") == ("d", "ao", "g")


def test_empty_lexicon_is_named(tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").touch()
    with pytest.raises(BundleError, match=r"lexicon\.txt"):
        Lexicon(tmp_path / "lexicon.txt")


@pytest.mark.parametrize(
    ("word", "symbols"), [("cat's", "k ae t s"), ("dog's", "d ao g z"), ("horse's", "hh ao r s ax z")]
)
def test_possessives_follow_the_last_phone(frontend: LexiconFrontend, word: str, symbols: str) -> None:
    assert frontend.symbols_of(word) == tuple(symbols.split())


def test_unknown_words_are_spelled(frontend: LexiconFrontend) -> None:
    assert frontend.symbols_of("fig") == ("letter:f", "letter:i", "letter:g")


def test_sentences_and_ids(frontend: LexiconFrontend) -> None:
    first, second = frontend.sentences("A cat. The dog?", 50)
    assert (first.read, second.read) == ("a cat.", "the dog?")
    assert first.ids == tuple(SYMBOLS[s] for s in [" ", "ax", " ", "k", "ae", "t", "."])
    whole = frontend.whole("A cat. The dog?")
    assert (whole.read, whole.ids) == ("a cat. the dog?", first.ids + second.ids)


def test_long_sentences_are_cut_and_lose_nothing(frontend: LexiconFrontend) -> None:
    text = "a cat a dog a horse, a dog a cat a dog a horse a cat."
    pieces = frontend.sentences(text, 20)
    assert len(pieces) > 2
    assert all(len(p.ids) <= 20 for p in pieces)
    words = " ".join(p.read for p in pieces).replace(",", "").replace(".", "").split()
    assert words == text.replace(",", "").replace(".", "").split()


def test_a_comma_is_the_preferred_cut(frontend: LexiconFrontend) -> None:
    assert [p.read for p in frontend.sentences("a cat a dog, a horse a cat a dog.", 22)] == [
        "a cat a dog,",
        "a horse a cat a dog.",
    ]


def test_one_word_over_the_limit_says_what_mends_it(frontend: LexiconFrontend) -> None:
    with pytest.raises(TextError, match=r"needs \d+ text tokens .* --prefix"):
        frontend.sentences("a " + "z" * 40, 30)


def describe(folder: Path, value: object) -> Frontend:
    (folder / "text.json").write_text(json.dumps(value))
    return load_frontend(folder, TextSpec("characters", "text.json"))


def test_characters(tmp_path: Path) -> None:
    frontend = describe(tmp_path, {"kind": "characters", "symbols": {c: i for i, c in enumerate("abc .")}})
    assert frontend.sentences("Abc", 10)[0].ids == (0, 1, 2, 4)
    assert frontend.whole("Cab. Bc").ids == (2, 0, 1, 4, 3, 1, 2, 4)
    with pytest.raises(TextError, match="'d'"):
        frontend.sentences("abcd", 10)


@pytest.mark.parametrize("number", ["1", 1.5, None, [1], -1, 2**70])
def test_symbols_are_token_ids(tmp_path: Path, number: object) -> None:
    with pytest.raises(BundleError, match=r"text\.json.*symbols\.a"):
        describe(tmp_path, {"kind": "characters", "symbols": {"a": number}})


@pytest.mark.parametrize("kind", ["lexicon", "tokenizer"])
def test_data_stays_inside_the_folder(tmp_path: Path, kind: Literal["lexicon", "tokenizer"]) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (tmp_path / "secret").write_text("cat\tk ae t\n")
    (folder / "link").symlink_to(tmp_path / "secret")
    for name, message in (("../secret", "outside"), ("link", "leads outside"), ("", "file is missing")):
        (folder / "text.json").write_text(json.dumps({"kind": kind, "symbols": {"a": 1}, "file": name}))
        with pytest.raises(BundleError, match=message):
            load_frontend(folder, TextSpec(kind, "text.json"))


def test_damaged_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text(json.dumps({"kind": "tokenizer", "file": "tokenizer.json"}))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        load_frontend(tmp_path, TextSpec("tokenizer", "text.json"))
    (tmp_path / "lexicon.txt").write_bytes(b"cat\t\xff\n")
    assert Lexicon(tmp_path / "lexicon.txt").phones("cat") == ("\N{REPLACEMENT CHARACTER}",)


@pytest.mark.parametrize(
    "value",
    [{}, [], {"kind": "lexicon", "symbols": {}}, {"kind": "characters"}, {"kind": "characters", "symbols": ["a"]}],
)
def test_malformed_description(tmp_path: Path, value: object) -> None:
    with pytest.raises(BundleError, match=r"text\.json"):
        describe(tmp_path, value)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Frontend:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "Dr.": 1, "Smith": 2}, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.json").write_text(json.dumps({"kind": "tokenizer", "file": "tokenizer.json"}))
    return load_frontend(tmp_path, TextSpec("tokenizer", "text.json"))


def test_a_tokenizer_is_given_the_text_as_written(tokenizer: Frontend) -> None:
    said = tokenizer.sentences('Dr. Smith paid $1,000 to Mr. Jones. "Hello!" World!', 20)
    assert [s.read for s in said] == ["Dr. Smith paid $1,000 to Mr. Jones.", '"Hello!"', "World!"]
    assert said[0].ids == (1, 2, 0, 0, 0, 0, 0)
    assert [s.read for s in tokenizer.sentences("one two, three four five", 3)] == ["one two,", "three four five"]
    assert tokenizer.whole("Dr. Smith! 'Dr.").ids == (1, 0, 0)
    for read in (lambda text: tokenizer.sentences(text, 20), tokenizer.whole):
        with pytest.raises(TextError, match="nothing to say"):
            read("...")
