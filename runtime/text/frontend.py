"""Text → sentences of token ids, for the three kinds of `text.json`: `characters`, `lexicon`, `tokenizer`.

It knows symbols and their ids; it does not know prompts, codes or graphs.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from sottovoce.errors import BundleError, MissingExtraError, TextError
from sottovoce.runtime.manifest import TextSpec
from sottovoce.runtime.parse import parse
from sottovoce.runtime.paths import inside
from sottovoce.runtime.strict_json import read_json
from sottovoce.runtime.text.lexicon import Lexicon
from sottovoce.runtime.text.normalise import normalise


@dataclass(frozen=True)
class Sentence:
    """One piece to speak in one go: `read`, the words as they are said, and their token ids."""

    read: str
    ids: tuple[int, ...]


class Frontend(Protocol):
    """What turns text into sentences."""

    def sentences(self, text: str, max_tokens: int) -> list[Sentence]:
        """`text` as sentences of at most `max_tokens` ids each; raises TextError."""
        ...

    def whole(self, text: str) -> Sentence:
        """`text` in one go, however long: a clip's words, and what training reads; raises TextError."""
        ...


Encode = Callable[[list[str]], tuple[int, ...]]


def split(words: list[str], encode: Encode, max_tokens: int) -> Iterator[list[str]]:
    """Normalised `words` cut at sentence ends, and at commas and then anywhere where a sentence is over `max_tokens`.

    Raises TextError where a single word is over it.
    """
    start = 0
    for i, word in enumerate(words):
        if word in ".?":
            yield from _shorten(words[start : i + 1], encode, max_tokens)
            start = i + 1


def _shorten(words: list[str], encode: Encode, max_tokens: int) -> Iterator[list[str]]:
    """`words` in pieces that fit, halved at the comma (else the gap) nearest to the middle."""
    length = len(encode(words))
    if length <= max_tokens:
        yield words
        return
    gaps = [i for i in range(1, len(words) - 1) if words[i] not in ",.?"]
    if not gaps:
        raise TextError(
            f"{words[0][:40]!r} needs {length} text tokens and this bundle takes {max_tokens} at once: shorten it, or, "
            f"up to what the voice was trained for, export with a larger --prefix"
        )
    middle = len(words) / 2
    commas = [i for i in gaps if words[i - 1].endswith(",") and 0.2 < i / len(words) < 0.8]
    cut = min(commas or gaps, key=lambda i: abs(i - middle))
    head = words[:cut] if words[cut - 1].endswith(",") else [*words[:cut], ","]
    yield from _shorten(head, encode, max_tokens)
    yield from _shorten(words[cut:], encode, max_tokens)


def read_out(words: list[str]) -> str:
    """`words` and marks as a line of text: marks follow their word."""
    return "".join(w if w in ",.?" else " " + w for w in words).strip()


class LexiconFrontend:
    """Words through a pronunciation lexicon, letter by letter where it has no entry."""

    def __init__(self, symbols: dict[str, int], lexicon: Lexicon) -> None:
        """`symbols`: phones, `" "`, marks and `letter:a` … to ids."""
        self.symbols = symbols
        self.lexicon = lexicon

    def symbols_of(self, word: str) -> tuple[str, ...]:
        """The symbols that `word` (or a mark) is read by."""
        if word in ",.?":
            return (word,)
        if phones := self.lexicon.phones(word):
            return phones
        if word.endswith("'s") and (phones := self.lexicon.phones(word[:-2])):
            return (*phones, *_plural(phones[-1]))
        return self.spelling(word)

    def spelling(self, word: str) -> tuple[str, ...]:
        """`word` by its letters."""
        return tuple(f"letter:{c}" for c in word if c != "'")

    def encode(self, words: list[str]) -> tuple[int, ...]:
        """Token ids of normalised `words`, a boundary symbol before each word."""
        names = [s for w in words for s in ((() if w in ",.?" else (" ",)) + self.symbols_of(w))]
        try:
            return tuple(self.symbols[s] for s in names)
        except KeyError as error:
            raise BundleError(f"text.json has no symbol {error}: the lexicon and the symbol table disagree") from None

    def sentences(self, text: str, max_tokens: int) -> list[Sentence]:
        """See `Frontend`."""
        words = normalise(text, self.lexicon.__contains__)
        return [Sentence(read_out(w), self.encode(w)) for w in split(words, self.encode, max_tokens)]

    def whole(self, text: str) -> Sentence:
        """See `Frontend`."""
        words = normalise(text, self.lexicon.__contains__)
        return Sentence(read_out(words), self.encode(words))


def _plural(last: str) -> tuple[str, ...]:
    """The phones that 's adds after `last`."""
    if last in ("s", "z", "sh", "zh", "ch", "jh"):
        return ("ax", "z")
    return ("s",) if last in ("p", "t", "k", "f", "th") else ("z",)


class CharacterFrontend:
    """Normalised text letter by letter."""

    def __init__(self, symbols: dict[str, int]) -> None:
        """`symbols`: characters to ids."""
        self.symbols = symbols

    def encode(self, words: list[str]) -> tuple[int, ...]:
        """Ids of the characters; those without a symbol are an error that names them."""
        text = read_out(words)
        if unknown := sorted(set(text) - set(self.symbols)):
            raise TextError(f"this voice has no symbol for {' '.join(unknown)!r}")
        return tuple(self.symbols[c] for c in text)

    def sentences(self, text: str, max_tokens: int) -> list[Sentence]:
        """See `Frontend`."""
        return [Sentence(read_out(w), self.encode(w)) for w in split(normalise(text), self.encode, max_tokens)]

    def whole(self, text: str) -> Sentence:
        """See `Frontend`."""
        words = normalise(text)
        return Sentence(read_out(words), self.encode(words))


class TokenizerFrontend:
    """Text through a Hugging Face `tokenizer.json`; such voices read digits and marks themselves."""

    def __init__(self, path: Path) -> None:
        """Load `path`; needs the extra `text`. Raises BundleError where it is no tokenizer."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtraError("tokenizers", "text") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise BundleError(f"{path} cannot be read: {error}") from None

    def encode(self, words: list[str]) -> tuple[int, ...]:
        """Ids of the words joined by spaces, without special tokens."""
        return tuple(self._tokenizer.encode(read_out(words), add_special_tokens=False).ids)

    def sentences(self, text: str, max_tokens: int) -> list[Sentence]:
        """See `Frontend`; the text is left as it is written."""
        _check_words(text)
        pieces = (p for words in written_sentences(text) for p in _shorten(words, self.encode, max_tokens))
        return [Sentence(read_out(words), self.encode(words)) for words in pieces]

    def whole(self, text: str) -> Sentence:
        """See `Frontend`."""
        _check_words(text)
        return Sentence(read_out(text.split()), self.encode(text.split()))


def _check_words(text: str) -> None:
    """Raise TextError where `text` as it is written has no words."""
    if not any(c.isalnum() for c in text):
        raise TextError("nothing to say: the text has no words")


def written_sentences(text: str) -> Iterator[list[str]]:
    """`text` cut after . ! or ?, but not after a title or an initial; each sentence as its words."""
    words: list[str] = []
    for word in text.split():
        words.append(word)
        if re.search(r"[.!?][\"')\]]*$", word) and not re.fullmatch(NO_END, word, re.IGNORECASE):
            yield words
            words = []
    if words:
        yield words


NO_END: Final = r"[\"'(]*(?:[A-Z]\.)+|[\"'(]*(?:mr|mrs|ms|dr|prof|st|mt|gen|sen|rep|capt|sgt|vs|e\.g|i\.e|no)\."
"""Words that end in a full stop and no sentence."""

MAX_ID: Final = 1 << 24
"""More token ids than any decoder has."""


@dataclass(frozen=True)
class TextFile:
    """`text.json`: `symbols` for characters and lexicons, `file` (beside it) for lexicons and tokenizers."""

    kind: str
    symbols: dict[str, int] = field(default_factory=dict)
    file: str = ""


def load_frontend(folder: Path, spec: TextSpec) -> Frontend:
    """The front end that `folder`'s `spec.file` describes; raises BundleError where it or its data is malformed."""
    path = inside(folder, spec.file)
    value: TextFile = parse(TextFile, read_json(path), str(path))
    if value.kind != spec.kind:
        raise BundleError(f"{path}: kind {value.kind!r} where the manifest says {spec.kind!r}")
    if spec.kind != "tokenizer" and not value.symbols:
        raise BundleError(f"{path}: symbols is missing or empty")
    if bad := [name for name, number in value.symbols.items() if not 0 <= number < MAX_ID]:
        raise BundleError(f"{path}: symbols.{bad[0]}: {str(value.symbols[bad[0]])[:40]} is no token id")
    if spec.kind == "characters":
        return CharacterFrontend(value.symbols)
    if not value.file:
        raise BundleError(f"{path}: file is missing, the name of the {spec.kind}'s data")
    data = inside(folder, value.file)
    return LexiconFrontend(value.symbols, Lexicon(data)) if spec.kind == "lexicon" else TokenizerFrontend(data)
