"""Written English → the words a voice says and the marks it pauses at.

`normalise("It's 5:30pm.")` → `["it's", "five", "thirty", "p", "m", "."]`. Marks are `,` `.` and `?`. What is left
after the rules and is neither a letter nor a mark is an error that names the characters.
"""

import re
import unicodedata
from collections.abc import Callable

from sottovoce.errors import TextError
from sottovoce.runtime.text import numbers as n

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_CHARACTERS = str.maketrans(
    {
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": ",", "`": "'", "´": "'",
        "—": ", ", "–": "-", "‒": "-", "―": ", ", "‐": "-", "‑": "-", "−": "-", "…": ".", "\u00a0": " ", "\u202f": " ",
        "×": " times ", "÷": " divided by ", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "ß": "ss", "æ": "ae", "œ": "oe",
        "ø": "o", "Ø": "O", "Æ": "Ae", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d", "ð": "d", "þ": "th", "•": ", ", "™": "",
        "®": "", "©": "", "\u200b": "", "\ufeff": "", "\u00ad": "", "²": " squared", "³": " cubed", "µ": "micro",
    }
)  # fmt: skip

_CURRENCIES = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence"), "¥": ("yen", "sen")}

_UNITS = {
    "km/h": "kilometers per hour", "kmh": "kilometers per hour", "mph": "miles per hour", "m/s": "meters per second",
    "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "m": "meters", "kg": "kilograms", "g": "grams",
    "mg": "milligrams", "lb": "pounds", "lbs": "pounds", "oz": "ounces", "ft": "feet", "mi": "miles",
    "ml": "milliliters",
    "l": "liters", "kb": "kilobytes", "mb": "megabytes", "gb": "gigabytes", "tb": "terabytes", "hz": "hertz",
    "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "kw": "kilowatts", "kwh": "kilowatt hours",
    "w": "watts",
    "v": "volts", "ms": "milliseconds", "s": "seconds", "sec": "seconds", "min": "minutes", "hr": "hours",
    "hrs": "hours",
    "h": "hours", "°c": "degrees celsius", "°f": "degrees fahrenheit", "°": "degrees", "%": "percent",
}  # fmt: skip
_SINGULAR = {"feet": "foot", "kilometers per hour": "kilometer per hour", "miles per hour": "mile per hour"}

_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "jr": "junior", "sr": "senior",
    "gen": "general", "capt": "captain", "lt": "lieutenant", "sgt": "sergeant", "rev": "reverend", "hon": "honorable",
    "ave": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane", "apt": "apartment", "dept": "department",
    "etc": "et cetera", "vs": "versus", "approx": "approximately", "inc": "incorporated", "ltd": "limited",
    "corp": "corporation", "est": "established", "fig": "figure", "vol": "volume", "jan": "january", "feb": "february",
    "mar": "march", "apr": "april", "jun": "june", "jul": "july", "aug": "august", "sept": "september",
    "sep": "september",
    "oct": "october", "nov": "november", "dec": "december", "mon": "monday", "tue": "tuesday", "tues": "tuesday",
    "wed": "wednesday", "thu": "thursday", "thurs": "thursday", "fri": "friday", "sat": "saturday", "sun": "sunday",
}  # fmt: skip
# In small letters these are words of their own ("he sat."), so they count as abbreviations only with a capital.
_ALSO_WORDS = frozenset("sat sun mon wed mar fig hon gen est rev inc jun dec vol apt".split())
_TITLES = "mr mrs ms dr prof capt lt sgt".split()

_LETTER_NAMES = {"a": "ay"}
"""Spelled letters go through the lexicon under their own name; "a" alone would be read as the article."""


def _rule(pattern: str, say: Callable[[re.Match[str]], str], flags: int = re.IGNORECASE) -> Rule:
    """A rewriting rule whose words are set off by spaces."""
    return re.compile(pattern, flags), lambda match: f" {say(match)} "


def _half(half: str) -> str:
    """ "a.m." and the like, spelled."""
    return f"{_LETTER_NAMES.get(half[0].lower(), half[0].lower())} m"


def _time(m: re.Match[str]) -> str:
    """Hour, minute and perhaps am or pm."""
    hour, minute, half = int(m[1]), int(m[2]), m[3]
    if not half:
        return n.clock(hour, minute)
    spoken = n.cardinal(hour) if minute == 0 else n.clock(hour, minute)
    return f"{spoken} {_half(half)}"


def _quantity(m: re.Match[str]) -> str:
    """A number and its unit, singular for one."""
    unit = _UNITS[m[2].lower()]
    if m[1] == "1" and unit not in ("percent", "hertz"):
        unit = _SINGULAR.get(unit) or re.sub(r"s\b", "", unit, count=1)
    return f"{n.decimal(m[1])} {unit}"


def _price(m: re.Match[str]) -> str:
    """A price, or an amount in millions and the like."""
    unit, cents = _CURRENCIES[m[1]]
    if m[3]:
        return f"{n.decimal(m[2])} {m[3]} {unit}s"
    return n.money(m[2], unit, cents)


def _date(m: re.Match[str]) -> str:
    """An ISO date; digits where month or day do not exist."""
    year, month, day = int(m[1]), int(m[2]), int(m[3])
    if 1 <= month <= 12 and 1 <= day <= 31:
        return n.date(year, month, day)
    return n.digits(m[0])


def _month_day(m: re.Match[str]) -> str:
    """A month name and a day: "November 21" → "november twenty first"."""
    month = next(name for name in n.MONTHS if name.startswith(m[1].lower()[:3]))
    return f"{month} {n.ordinal(int(m[2]))}"


def _saint_or_street(m: re.Match[str]) -> str:
    """ "St." before a name is Saint, after one Street."""
    after_name = re.search(r"[A-Z]\w+\s$", m.string[: m.start()])
    return "saint" if m[1] and not after_name else "street"


def _abbreviation(m: re.Match[str]) -> str:
    """The abbreviation's long form, or the word itself where it is one."""
    return m[0] if m[1] in _ALSO_WORDS else _ABBREVIATIONS[m[1].lower()]


def _spell(m: re.Match[str]) -> str:
    """Capitals letter by letter, with a plural s kept."""
    return " ".join(_LETTER_NAMES.get(c, c) for c in m[1].replace(".", "").lower()) + ("'s" if m[2] else "")


def _alternatives(words: object) -> str:
    """A regex alternation, longest first."""
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))  # type: ignore[call-overload]


_NUMBER = r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_MONTH = "|".join([*n.MONTHS, *"jan feb mar apr jun jul aug sept sep oct nov dec".split()])

RULES: tuple[Rule, ...] = (
    _rule(r"https?://(?:www\.)?|\bwww\.", lambda m: ""),
    _rule(r"(?<=[\w])@(?=[\w])", lambda m: "at"),
    _rule(r"(?<=[a-z])\.(?=(?:com|org|net|io|edu|gov)\b)", lambda m: "dot"),
    _rule(r"\be\.\s?g\.,?", lambda m: "for example"),
    _rule(r"\bi\.\s?e\.,?", lambda m: "that is"),
    _rule(r"\bo'clock\b", lambda m: "o'clock"),
    _rule(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b", _date),
    _rule(r"\b([01]?\d|2[0-3])[:.]([0-5]\d)\s?([ap]\.?m\b\.?(?!\w))", _time),
    _rule(r"\b([01]?\d|2[0-3]):([0-5]\d)()\b", _time),
    _rule(r"\b(1[0-2]|[1-9])\s?([ap]\.?m\b\.?(?!\w))", lambda m: f"{n.cardinal(int(m[1]))} {_half(m[2])}"),
    _rule(rf"([$€£¥])\s?{_NUMBER}(?:\s(million|billion|trillion|thousand)\b)?", _price),
    _rule(rf"\b(?=(?-i:[A-Z]))({_MONTH})\.?\s(\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.,]?\d)", _month_day),
    _rule(r"\b((?:1[1-9]|20)\d\d)s\b", lambda m: re.sub("y$", "ies", n.year(int(m[1])))),
    _rule(r"\bno\.\s?(?=\d)", lambda m: "number"),
    _rule(r"#\s?(?=\d)", lambda m: "number"),
    _rule(r"\b[Ss]t\.(?=(\s[A-Z])?)", _saint_or_street, re.NOFLAG),
    _rule(r"\b(\d{1,3})/(\d{1,3})\b", lambda m: n.fraction(int(m[1]), int(m[2]))),
    _rule(r"\+?\b\d{3}-\d{4}\b|\b\d{3}-\d{3}-\d{4}\b|\+\d[\d ]{6,}\d", lambda m: n.digits(m[0])),
    _rule(r"(?<![\w.])-(?=\.?\d)", lambda m: "minus"),
    _rule(r"(?<=\d)\s?-\s?(?=\d)", lambda m: "to"),
    _rule(rf"{_NUMBER}\s?({_alternatives(k for k in _UNITS if k not in ('%', '°'))})(?![\w'])", _quantity),
    _rule(rf"{_NUMBER}\s?([%°])", _quantity),
    _rule(r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: n.ordinal(int(m[1]))),
    _rule(r"(?<![\d.,])((?:1[1-9]|20)\d\d)(?![\d]|[.,]\d)", lambda m: n.year(int(m[1]))),
    _rule(r"(?<![\d.,])(0\d+)(?![\d]|[.,]\d)", lambda m: n.digits(m[1])),
    _rule(_NUMBER, lambda m: n.decimal(m[1])),
    _rule(rf"\b({'|'.join(_TITLES)})\b\.?(?=\s[A-Z])", lambda m: _ABBREVIATIONS[m[1].lower()]),
    _rule(rf"\b({_alternatives(_ABBREVIATIONS)})\.(?=\s+(?-i:[A-Z])|\s*$)", lambda m: _abbreviation(m) + "."),
    _rule(rf"\b({_alternatives(_ABBREVIATIONS)})\.(?=[\s,;:])", _abbreviation),
    _rule(r"\band/or\b", lambda m: "and or"),
    _rule(r"\bOK\b", lambda m: "okay", re.NOFLAG),
    _rule(r"\b((?:[A-Z]\.){2,}|[A-Z]{2,})('?s)?(?![\w])", _spell, re.NOFLAG),
    _rule(r"&", lambda m: "and"),
    _rule(r"\+", lambda m: "plus"),
    _rule(r"=", lambda m: "equals"),
    _rule(r"@", lambda m: "at"),
    _rule(r"%", lambda m: "percent"),
    _rule(r"°", lambda m: "degrees"),
    _rule(r"(?<=\w)/(?=\w)", lambda m: "slash"),
)  # fmt: skip
"""Applied in this order: each sees what the earlier ones left."""


def clean(text: str) -> str:
    """`text` in plain ASCII: accents dropped, typographic marks mapped; raises TextError naming what cannot be
    mapped."""
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
    text = "".join(
        c for c in unicodedata.normalize("NFKD", text.translate(_CHARACTERS)) if not unicodedata.combining(c)
    )
    known = set("°€£¥")
    if unknown := sorted(
        {c for c in text if not (c.isascii() and (c.isprintable() or c.isspace())) and c not in known}
    ):
        raise TextError(f"cannot say {' '.join(unknown)!r}: write it in letters, digits or common punctuation")
    return text


def expand(text: str, is_word: Callable[[str], bool] = lambda word: False) -> str:
    """`text` with numbers, times, prices, units and abbreviations in words; capitals that `is_word` knows are not
    spelled."""
    if text.isupper() and " " in text:
        text = text.capitalize()
    text = re.sub(r"\b[A-Z]{4,}\b", lambda m: m[0].lower() if is_word(m[0].lower()) else m[0], text)
    text = re.sub(r"(?<=[a-zA-Z])(?=\d)|(?<=\d)(?=[A-Z]{2,}\b(?<!AM)(?<!PM))", " ", text)
    for pattern, say in RULES:
        text = pattern.sub(say, text)
    return text


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
