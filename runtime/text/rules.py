"""How written English becomes words: an ordered table of rewriting rules for numbers, times, prices, abbreviations.

Each rule sees what the earlier ones left. Patterns run in linear time: a number is taken whole or not at all.
"""

import re
from collections.abc import Callable, Iterable

from sottovoce.runtime.text import numbers as n

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_CURRENCIES = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence"), "¥": ("yen", "sen"), "¢": ("cent", "cent"),
}  # fmt: skip
_MULTIPLES = {
    "k": "thousand", "thousand": "thousand", "m": "million", "mn": "million", "million": "million", "b": "billion",
    "bn": "billion", "billion": "billion", "tn": "trillion", "trillion": "trillion",
}  # fmt: skip

_UNITS = {
    "km/h": "kilometers per hour", "kmh": "kilometers per hour", "kph": "kilometers per hour",
    "mph": "miles per hour", "m/s": "meters per second", "km": "kilometers", "cm": "centimeters",
    "mm": "millimeters", "m": "meters", "kg": "kilograms", "g": "grams", "mg": "milligrams", "lb": "pounds",
    "lbs": "pounds", "oz": "ounces", "ft": "feet", "mi": "miles", "ml": "milliliters", "mL": "milliliters",
    "l": "liters", "L": "liters", "KB": "kilobytes", "kB": "kilobytes", "MB": "megabytes", "GB": "gigabytes",
    "TB": "terabytes", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "kW": "kilowatts",
    "kWh": "kilowatt hours", "W": "watts", "V": "volts", "ms": "milliseconds", "sec": "seconds", "min": "minutes",
    "hr": "hours", "hrs": "hours", "h": "hours", "°C": "degrees celsius", "°F": "degrees fahrenheit",
}  # fmt: skip
_SINGULAR = {"feet": "foot", "kilometers per hour": "kilometer per hour", "miles per hour": "mile per hour"}

_TITLES = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "capt": "captain",
    "lt": "lieutenant", "sgt": "sergeant", "col": "colonel", "gen": "general", "rev": "reverend", "hon": "honorable",
    "sen": "senator", "gov": "governor", "rep": "representative", "pres": "president", "mt": "mount", "ft": "fort",
}  # fmt: skip
"""Abbreviations before a name."""

_ABBREVIATIONS = {
    "jr": "junior", "sr": "senior", "ave": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane",
    "apt": "apartment", "dept": "department", "etc": "et cetera", "vs": "versus", "approx": "approximately",
    "inc": "incorporated", "ltd": "limited", "corp": "corporation", "co": "company", "est": "established",
    "fig": "figure", "vol": "volume", "tel": "telephone", "jan": "january", "feb": "february", "mar": "march",
    "apr": "april", "jun": "june", "jul": "july", "aug": "august", "sept": "september", "sep": "september",
    "oct": "october", "nov": "november", "dec": "december", "mon": "monday", "tue": "tuesday", "tues": "tuesday",
    "wed": "wednesday", "thu": "thursday", "thurs": "thursday", "fri": "friday", "sat": "saturday", "sun": "sunday",
    "gen": "general", "col": "colonel",
}  # fmt: skip
# In small letters these are words of their own ("he sat."), so they count as abbreviations only with a capital.
_ALSO_WORDS = frozenset("sat sun mon wed mar fig gen est inc jun dec vol apt col".split())

_SHOUTED = frozenset(
    "a am an and any are as at be but by can did do for get go had has he her him his how i if in is me my new no not "
    "now of off oh on one or our out ow run see she so the to too up was we why who yes you".split()
)
"""Short words that capitals do not make initials of; "IT" and "US" stay spelled."""

LETTER_NAMES = {"a": "ay"}
"""Spelled letters go through the lexicon under their own name; "a" alone would be read as the article."""

_STARTERS = frozenset(
    "A An And At But He I If In It My On Our She So Th That The Then There They This We When You".split()
)
"""Words that open sentences more often than names."""

_ROMAN = {"II": 2, "III": 3, "IV": 4, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "XI": 11, "XII": 12, "XIV": 14, "XVI": 16}
_FRACTIONS = frozenset([2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 64, 100])


def _alternatives(words: Iterable[str]) -> str:
    """A regex alternation, longest first."""
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))


def spelled(text: str) -> str:
    """The letters of `text` by their names."""
    return " ".join(LETTER_NAMES.get(c, c) for c in text.lower() if c.isalpha())


def _half(m: str) -> str:
    """ "a.m." or "pm", spelled."""
    return spelled(m[0] + "m")


def _time(m: re.Match[str]) -> str:
    """Hour, minute and perhaps am or pm."""
    hour, minute, half = int(m[1]), int(m[2] or 0), m[3]
    if not half:
        return n.clock(hour, minute)
    return f"{n.cardinal(hour) if minute == 0 else n.clock(hour, minute)} {_half(half)}"


def _quantity(m: re.Match[str]) -> str:
    """A number and its unit, singular for one."""
    unit = _UNITS[m[2]]
    if m[1] == "1" and unit != "hertz":
        unit = _SINGULAR.get(unit) or re.sub(r"s\b", "", unit, count=1)
    return f"{n.decimal(m[1])} {unit}"


def _price(m: re.Match[str]) -> str:
    """A price, or an amount in millions and the like."""
    unit, cents = _CURRENCIES[m[1]]
    if m[3]:
        return f"{n.decimal(m[2])} {_MULTIPLES[m[3].lower()]} {unit}s"
    return n.money(m[2], unit, cents)


def _price_range(m: re.Match[str]) -> str:
    """ "$5-10 million" → "five to ten million dollars"."""
    multiple = f" {_MULTIPLES[m[4].lower()]}" if m[4] else ""
    return f"{n.decimal(m[2])} to {n.decimal(m[3])}{multiple} {_CURRENCIES[m[1]][0]}s"


def _date(year: str, month: str, day: str, written: str) -> str:
    """A calendar date; digits where month or day do not exist."""
    months, days = int(month), int(day)
    years = int(year) if len(year) == 4 else int(year) + (2000 if int(year) < 50 else 1900)
    if months > 12 and days <= 12:
        months, days = days, months
    return n.date(years, months, days) if 1 <= months <= 12 and 1 <= days <= 31 else n.digits(written)


def _day(number: str) -> str:
    """The day of a month."""
    return n.ordinal(int(number))


def _month(name: str) -> str:
    """The full name of a month."""
    return next(month for month in n.MONTHS if month.startswith(name.lower()[:3]))


def _plural_number(m: re.Match[str]) -> str:
    """ "1990s" → "nineteen nineties", "747s" → "seven hundred forty sevens"."""
    number = n.spoken_year(m[1]) if re.fullmatch(r"1[1-9]\d\d|20\d\d", m[1]) else n.decimal(m[1])
    return re.sub("y$", "ie", number) + ("es" if number.endswith("six") else "s")


def _fraction(m: re.Match[str]) -> str:
    """ "3/4" → "three quarters"; "24/7" and "9/11" by their numbers."""
    top, bottom = int(m[1]), int(m[2])
    if top < bottom and bottom in _FRACTIONS:
        return n.fraction(top, bottom)
    return f"{n.cardinal(top)} {n.cardinal(bottom)}"


def _digits(m: re.Match[str]) -> str:
    """Every digit by its name."""
    return n.digits(m[0])


def _dotted(m: re.Match[str]) -> str:
    """A version or address: its parts with "point" between."""
    return " point ".join(n.cardinal(int(p)) if len(p) < 3 else n.digits(p) for p in m[0].split("."))


def _saint_or_street(m: re.Match[str]) -> str:
    """ "St." and "Dr." before a name are Saint and Doctor; before a new sentence, or no capital, Street and Drive."""
    title, place = {"St": ("saint", "street"), "Dr": ("doctor", "drive")}[m[1]]
    if m[2] and m[2] not in _STARTERS:
        return title
    return place if not m[2] and m.string[m.end() :].strip(" .") else place + "."


def _title(m: re.Match[str]) -> str:
    """A title before a name, with or without its stop."""
    return _TITLES[(m[1] or m[2]).lower()]


def _abbreviation(m: re.Match[str]) -> str:
    """The abbreviation's long form, or the word itself where it is one."""
    return m[0] if m[1] in _ALSO_WORDS else _ABBREVIATIONS[m[1].lower()]


def _capitals(m: re.Match[str]) -> str:
    """Initials letter by letter, with a plural s kept; short words that are only shouted as they are."""
    word = m[1].lower()
    if word in _SHOUTED and not m[2]:
        return word
    return spelled(word) + ("'s" if m[2] else "")


_AMOUNT = r"(\d{1,3}(?:,\d{3})++(?!\d)(?:\.\d++)?|\d++(?:\.\d++)?|\.\d++)"
NUMBER = rf"(?<![\d.]){_AMOUNT}"
_MONTHS = "|".join([*n.MONTHS, *"jan feb mar apr jun jul aug sept sep oct nov dec".split()])
_CAPITAL = r"(?=(?-i:[A-Z]))"
_HALF = r"([ap]\.?m(?:\.(?!\s+(?-i:[A-Z])|\s*$)|\b))"
_MONEY = rf"({_alternatives(_MULTIPLES)})\b"

_TABLE: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"https?://(?:www\.)?|\bwww\.", lambda m: ""),
    (r"(?<=\w)@(?=\w)", lambda m: "at"),
    (r"\be\.\s?g\.,?", lambda m: "for example"),
    (r"\bi\.\s?e\.,?", lambda m: "that is"),
    (r"\bph\.?\s?d\b\.?", lambda m: "p h d"),
    (r"(?-i:(?<=[a-z0-9])\.(?=[a-z]{2}))", lambda m: "dot"),
    (r"(?m)^\s*(\d{1,3})[.)]\s+(?=\D)", lambda m: f". {n.cardinal(int(m[1]))}, "),
    # dates and times
    (r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b", lambda m: _date(m[1], m[2], m[3], m[0])),
    (r"\b(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)\b", lambda m: _date(m[3], m[1], m[2], m[0])),
    (rf"\b([01]?\d|2[0-3])[:.]([0-5]\d)\s?{_HALF}", _time),
    (r"\b([01]?\d|2[0-3]):([0-5]\d)()\b", _time),
    (rf"\b(1[0-2]|[1-9])()\s?{_HALF}", _time),
    (rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?{_CAPITAL}({_MONTHS})\b",
     lambda m: f"the {_day(m[1])} of {_month(m[2])}"),
    (rf"\b{_CAPITAL}({_MONTHS})\.?\s(\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.,]?\d)",
     lambda m: f"{_month(m[1])} {_day(m[2])}"),
    # numbers that are read digit by digit
    (r"\(\d{3}\)\s?\d{3}-\d{4}\b|\b\d{3}([-.])\d{3}\1\d{4}\b|\b\d{3}-\d{4}\b|\+\d[\d ]{6,20}\d", _digits),
    (r"\b\d++(?:\.\d++){2,}\b", _dotted),
    # signs and ranges
    (r"(?<![\w.,%°])-(?=[$€£¥]?\s?\.?\d)", lambda m: "minus"),
    (rf"([$€£¥])\s?{NUMBER}\s?-\s?[$€£¥]?{_AMOUNT}(?:\s?{_MONEY})?", _price_range),
    (r"(?<=[\d%°])\s?-\s?(?=[$€£¥]?\.?\d)", lambda m: "to"),
    (r"(?<=[a-z])-(?=\d)", lambda m: ""),
    (r"~\s?(?=[$€£¥]?\.?\d)", lambda m: "about"),
    (r"\bno\.\s?(?=\d)", lambda m: "number"),
    (r"\bpp?\.\s?(?=\d)", lambda m: "page"),
    (r"#\s?(?=\d)", lambda m: "number"),
    (r"\bC#", lambda m: "c sharp"),
    (r"#(?=[a-z])", lambda m: "hashtag"),
    # money, fractions, units
    (rf"([$€£¥])\s?{NUMBER}(?:\s?{_MONEY})?", _price),
    (rf"{NUMBER}\s?([€£¢])()", lambda m: n.money(m[1], *_CURRENCIES[m[2]])),
    (r"\b(\d{1,3})\s(\d)/(\d{1,2})\b", lambda m: f"{n.cardinal(int(m[1]))} and {n.fraction(int(m[2]), int(m[3]))}"),
    (r"\b(\d{1,3})/(\d{1,3})\b", _fraction),
    (r"(?<![\w.,])'?(\d++)'?s\b", _plural_number),
    (rf"(?-i:{NUMBER}\s?({_alternatives(_UNITS)})(?![\w'])(?:\.(?=\s[a-z]))?)", _quantity),
    (rf"{NUMBER}\s?%", lambda m: f"{n.decimal(m[1])} percent"),
    (rf"{NUMBER}\s?°", lambda m: f"{n.decimal(m[1])} degrees"),
    (r"\b(\d{1,3}(?:,\d{3})++|\d++)(?:st|nd|rd|th)\b", lambda m: n.ordinal_of(m[1])),
    (r"(?<![\d.,])(1[1-9]\d\d|20\d\d)(?![\d]|[.,]\d)", lambda m: n.spoken_year(m[1])),
    (r"(?<![\d.,])(0\d++)(?![.,]\d)", lambda m: n.digits(m[1])),
    (NUMBER, lambda m: n.decimal(m[1])),
    # abbreviations and capitals
    (r"(?-i:\b(St|Dr)\.(?:\s+(?=([A-Z]\w*))|(?=\W|$)))", _saint_or_street),
    (rf"\b({_alternatives(_TITLES)})\b\.(?=\s(?-i:[A-Z]))|\b(mr|mrs|ms|dr|prof)\b(?:\.|(?=\s(?-i:[A-Z])))", _title),
    (rf"\b({_alternatives(_ABBREVIATIONS)})\.(?=\s+(?-i:[A-Z])|\s*$)", lambda m: _abbreviation(m) + "."),
    (rf"\b({_alternatives(_ABBREVIATIONS)})\.(?=[\s,;:])", _abbreviation),
    (r"\band/or\b", lambda m: "and or"),
    (r"(?-i:\bOK\b)", lambda m: "okay"),
    (rf"(?<=\w\s)(?-i:({_alternatives(_ROMAN)}))\b", lambda m: n.cardinal(_ROMAN[m[1]])),
    (r"(?-i:\b((?:[A-Z]\.){2,}|[A-Z]{2,})('?s)?(?!\w))", _capitals),
    (r"(?-i:\b([A-Z])\.(?=\s*[A-Z]))", lambda m: spelled(m[1])),
    (r"\b(?:[a-z]\.){2,}", lambda m: spelled(m[0])),
    # signs that are left
    (r"&", lambda m: "and"),
    (r"\+", lambda m: "plus"),
    (r"=", lambda m: "equals"),
    (r"@", lambda m: "at"),
    (r"%", lambda m: "percent"),
    (r"°", lambda m: "degrees"),
    (r"\s/\s", lambda m: "or"),
    (r"(?<=\w)/(?=\w)", lambda m: "slash"),
)  # fmt: skip

RULES: tuple[Rule, ...] = tuple((re.compile(pattern, re.IGNORECASE), say) for pattern, say in _TABLE)
"""Applied in this order; what a rule says is set off by spaces."""
