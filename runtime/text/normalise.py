"""Written English → the words a voice says and the marks it pauses at.

`normalise("It's 5:30pm.")` → `["it's", "five", "thirty", "p", "m", "."]`. Marks are `,` `.` and `?`. What is left
after the rules and is neither a letter nor a mark is an error that names the characters.
"""

import re
import unicodedata
from collections.abc import Callable

from sottovoce.errors import TextError
from sottovoce.runtime.text.rules import RULES

_CHARACTERS = str.maketrans(
    {
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": ",", "`": "'", "´": "'",
        "—": ", ", "–": "-", "‒": "-", "―": ", ", "‐": "-", "‑": "-", "−": "-", "…": ".", "\u00a0": " ", "\u202f": " ",
        "×": " times ", "÷": " divided by ", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "ß": "ss", "æ": "ae", "œ": "oe",
        "ø": "o", "Ø": "O", "Æ": "Ae", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d", "ð": "d", "þ": "th", "•": ", ", "™": "",
        "®": "", "©": "", "\u200b": "", "\ufeff": "", "\u00ad": "", "⁄": "/", "²": " squared",
        "³": " cubed", "µ": "micro",
    }
)  # fmt: skip


def clean(text: str) -> str:
    """`text` in plain ASCII: accents dropped, typographic marks mapped; raises TextError naming what cannot be
    mapped."""
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
    text = "".join(
        c for c in unicodedata.normalize("NFKD", text.translate(_CHARACTERS)) if not unicodedata.combining(c)
    )
    known = set("°€£¥¢")
    if unknown := sorted(
        {c for c in text if not (c.isascii() and (c.isprintable() or c.isspace())) and c not in known}
    ):
        raise TextError(f"cannot say {' '.join(unknown)!r}: write it in letters, digits or common punctuation")
    return text


def expand(text: str, is_word: Callable[[str], bool] = lambda word: False) -> str:
    """`text` with numbers, times, prices and abbreviations in words; capitals that `is_word` knows are not spelled."""
    if text.isupper() and " " in text:
        text = text.capitalize()
    text = re.sub(r"\b[A-Z]{2,}(?:\s+[A-Z]{2,})+\b", lambda m: _calm(m[0], is_word), text)
    text = re.sub(r"\b[A-Z]{4,}\b", lambda m: m[0].lower() if is_word(m[0].lower()) or len(m[0]) > 4 else m[0], text)
    text = re.sub(r"(?<=[a-zA-Z])(?=\d)|(?<=\d)(?=[A-Z]{2,}\b(?<!AM)(?<!PM))", " ", text)
    for pattern, say in RULES:
        text = pattern.sub(lambda match, say=say: f" {say(match)} ", text)  # type: ignore[misc]
    return text


def _calm(run: str, is_word: Callable[[str], bool]) -> str:
    """A run of capitals in small letters where all of it are words."""
    small = run.lower()
    return small if all(map(is_word, small.split())) else run


def normalise(text: str, is_word: Callable[[str], bool] = lambda word: False) -> list[str]:
    """Words (lower case) and marks (`,` `.` `?`) of `text`; `is_word` tells which capitals are words, not initials.

    Raises TextError for characters that remain unknown and where nothing can be said.
    """
    text = expand(clean(text), is_word).lower()
    text = re.sub(r"\n\s*\n", ". ", text)
    text = re.sub(r"[!?]*\?[!?]*", "?", text).replace("!", ".")
    text = re.sub(r"[;:()\[\]{}]|\s-+\s|--+", " , ", text)
    text = re.sub(r"[-_\"*]|(?<![a-z])'|'(?![a-z])", " ", text)
    tokens = re.findall(r"[a-z']+|[.,?]|[^\sa-z'.,?]", text)
    if unknown := sorted({t for t in tokens if not re.fullmatch(r"[a-z']+|[.,?]", t)}):
        raise TextError(f"cannot say {' '.join(unknown)!r}: write it in words")
    words = _tidy(tokens)
    if not words:
        raise TextError("nothing to say: the text has no words")
    return words


def _tidy(tokens: list[str]) -> list[str]:
    """`tokens` without leading or doubled marks, ending in a full stop or question mark."""
    out: list[str] = []
    for token in tokens:
        if token in ",.?" and (not out or out[-1] in ",.?"):
            if out and out[-1] == ",":
                out[-1] = token
            continue
        out.append(token)
    if out and out[-1] not in ".?":
        out = (out[:-1] if out[-1] == "," else out) + ["."]
    return out
