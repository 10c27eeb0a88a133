"""Written English → words: a table of what users type and what should be read."""

import contextlib
import random
import re
import time

import pytest

from sottovoce.errors import TextError
from sottovoce.runtime.text.normalise import normalise

WORDS = {"nasa", "stop", "warning", "the", "end", "do", "not", "touch"}

CASES = {
    "Hello, World": "hello , world .",
    "It's 5:30pm!": "it's five thirty p m .",
    "Meet at 9:00 or 17:05.": "meet at nine o'clock or seventeen oh five .",
    "7 a.m. when they left": "seven ay m when they left .",
    "$3.50, £1.01 and €20": "three dollars and fifty cents , one pound and one pence and twenty euros .",
    "It cost $5 million.": "it cost five million dollars .",
    "1,250.5 km at 60 km/h": "one thousand two hundred fifty point five kilometers at sixty kilometers per hour .",
    "1 km, 1 ft": "one kilometer , one foot .",
    "-5°C and 20%": "minus five degrees celsius and twenty percent .",
    "1999, 2005 and 1990s": "nineteen ninety nine , two thousand five and nineteen nineties .",
    "on Nov. 21st, 2026-11-21": "on november twenty first , november twenty first twenty twenty six .",
    "1/2 cup, 3/4 mile, 2/5": "one half cup , three quarters mile , two fifths .",
    "the 1st, 2nd, 3rd, 12th and 20th": "the first , second , third , twelfth and twentieth .",
    "10-12 people": "ten to twelve people .",
    "Call 555-1234.": "call five five five one two three four .",
    "room 007": "room zero zero seven .",
    "Dr. Smith of St. James St. was late.": "doctor smith of saint james street was late .",
    "Mr. and Mrs. Jones, etc.": "mister and missus jones , et cetera .",
    "e.g. this, i.e. that": "for example this , that is that .",
    "He sat. She may 5 times.": "he sat . she may five times .",
    "I saw it in Dec. It was cold.": "i saw it in december . it was cold .",
    "GPS and the USA's B12": "g p s and the u s ay's b twelve .",
    "NASA is OK": "nasa is okay .",
    "THIS IS LOUD TEXT": "this is loud text .",
    "café “beans” — naïve": "cafe beans , naive .",
    "user@example.com": "user at example dot com .",
    "bread & butter and/or jam": "bread and butter and or jam .",
    "Really?! Yes!!": "really ? yes .",
    "well-known (mostly); true": "well known , mostly , true .",
    "one\n\ntwo": "one . two .",
    "1000000": "one million .",
    "0.5": "zero point five .",
    "80s music, in his 30s, the '90s": "eighties music , in his thirties , the nineties .",
    "two Boeing 747s": "two boeing seven hundred forty sevens .",
    "George W. Bush met J. Edgar Hoover.": "george w bush met j edgar hoover .",
    "Bob, a.k.a. Rob, has a Ph.D. in art.": "bob , ay k ay rob , has a p h d in art .",
    "Mt. Everest and Gen. Lee": "mount everest and general lee .",
    "at 8 p.m. Then we left": "at eight p m . then we left .",
    "-$5, $5-10, 5%-10%": "minus five dollars , five to ten dollars , five percent to ten percent .",
    "$2.5bn, £20m, 5G": "two point five billion dollars , twenty million pounds , five g .",
    "1,000th": "one thousandth .",
    "12/25/2024": "december twenty fifth twenty twenty four .",
    "50€ or ~5": "fifty euros or about five .",
    "YES! THE END is near. DO NOT TOUCH it.": "yes . the end is near . do not touch it .",
    "24/7 and 9/11": "twenty four seven and nine eleven .",
    "(555) 123-4567": "five five five one two three four five six seven .",
    "version 3.0.2": "version three point zero point two .",
    "2½ cups": "two and one half cups .",
    "5 January": "the fifth of january .",
    "bbc.co.uk": "bbc dot co dot uk .",
    "1. First\n2. Second": "one , first . two , second .",
    "World War II": "world war two .",
    "I live on Main St. He lives on Elm Dr. It is far.": "i live on main street . he lives on elm drive . it is far .",
    "2 lbs. of beans": "two pounds of beans .",
}


@pytest.mark.parametrize("written", CASES)
def test_reads_as(written: str) -> None:
    assert " ".join(normalise(written, WORDS.__contains__)) == CASES[written]


@pytest.mark.parametrize(("written", "named"), [("x^2", "^"), ("日本", "日"), ("a ☃ b", "☃"), ("a | b", "|")])
def test_unknown_characters_are_named(written: str, named: str) -> None:
    with pytest.raises(TextError, match=r"cannot say") as error:
        normalise(written)
    assert named in str(error.value)


@pytest.mark.parametrize("written", ["", "   ", "...", "?!", '""'])
def test_nothing_to_say(written: str) -> None:
    with pytest.raises(TextError, match="nothing to say"):
        normalise(written)


def test_any_ascii_is_read_or_refused_and_reading_is_final() -> None:
    rng = random.Random(0)
    pieces = [
        "a",
        "Mr.",
        "St.",
        "$",
        "5",
        "1,000",
        ".5",
        "%",
        ":",
        "-",
        "/",
        "'",
        "km",
        "pm",
        "NASA",
        "!",
        "?",
        ",",
        "(",
        "#",
        "0",
    ]
    read = 0
    for _ in range(3000):
        text = "".join(rng.choice([*pieces, " ", " "]) for _ in range(rng.randint(1, 12)))
        try:
            words = normalise(text, WORDS.__contains__)
        except TextError:
            continue
        read += 1
        assert all(re.fullmatch(r"[a-z']+|[.,?]", w) for w in words), text
        assert normalise(" ".join(words), WORDS.__contains__) == words, text
    assert read > 1000


@pytest.mark.parametrize(
    "text", ["1" * 5000, "1.1." * 2000, "1-" * 3000, "A." * 3000, "5%-" * 2000, "1/" * 3000, "$" * 3000]
)
def test_odd_text_takes_no_odd_time(text: str) -> None:
    """Quadratic patterns took minutes on such input; what is said of it does not matter."""
    start = time.process_time()
    with contextlib.suppress(TextError):
        normalise(text)
    assert time.process_time() - start < 5
