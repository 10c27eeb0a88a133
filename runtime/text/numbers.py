"""Numbers, times, prices and dates in English words. Pure functions from digits to words."""

_ONES = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
MONTHS = "january february march april may june july august september october november december".split()
"""Month names in order."""


def digits(text: str) -> str:
    """Each digit by its name: `"07"` → "zero seven"; other characters are skipped."""
    return " ".join(_ONES[int(c)] for c in text if c.isdecimal())


def cardinal(number: int) -> str:
    """An integer in words, without "and": 1234 → "one thousand two hundred thirty four"; digit by digit from 10^15
    on."""
    if number < 0:
        return "minus " + cardinal(-number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (" " + _ONES[number % 10] if number % 10 else "")
    if number < 1000:
        return _ONES[number // 100] + " hundred" + (" " + cardinal(number % 100) if number % 100 else "")
    if number >= 10**15:
        return digits(str(number))
    scale, name = next((s, n) for s, n in _SCALES if number >= s)
    return f"{cardinal(number // scale)} {name}" + (" " + cardinal(number % scale) if number % scale else "")


def ordinal(number: int) -> str:
    """An ordinal in words: 21 → "twenty first"."""
    *head, last = cardinal(number).split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return " ".join([*head, last])


def decimal(text: str) -> str:
    """A number with thousands commas and perhaps a fraction: "1,250.5" → "one thousand two hundred fifty point five".

    Over 15 digits it is read digit by digit.
    """
    whole, _, fraction = text.replace(",", "").partition(".")
    words = digits(whole) if len(whole) > 15 else cardinal(int(whole or "0"))
    return f"{words} point {digits(fraction)}" if fraction else words


def ordinal_of(text: str) -> str:
    """The ordinal of a number with thousands commas: "1,000" → "one thousandth"."""
    plain = text.replace(",", "")
    return digits(plain) if len(plain) > 15 else ordinal(int(plain))


def spoken_year(text: str) -> str:
    """A year in digits: "1999" → "nineteen ninety nine"."""
    return year(int(text))


def year(number: int) -> str:
    """A year: 1999 → "nineteen ninety nine", 2005 → "two thousand five", 2026 → "twenty twenty six"."""
    century, rest = divmod(number, 100)
    if rest == 0 and century % 10:
        return cardinal(century) + " hundred"
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    return f"{cardinal(century)} {'oh ' + _ONES[rest] if rest < 10 else cardinal(rest)}"


def clock(hour: int, minute: int) -> str:
    """A time of day: (5, 5) → "five oh five", (9, 0) → "nine o'clock", (17, 0) → "seventeen hundred"."""
    if minute == 0:
        return cardinal(hour) + (" o'clock" if 1 <= hour <= 12 else " hundred" if hour else " hours")
    return f"{cardinal(hour)} {'oh ' + _ONES[minute] if minute < 10 else cardinal(minute)}"


def money(amount: str, unit: str, cents: str) -> str:
    """A price: `("3.50", "dollar", "cent")` → "three dollars and fifty cents"."""
    whole, _, fraction = amount.replace(",", "").partition(".")
    if len(whole) > 15:
        return f"{decimal(amount)} {unit}s"
    count = int(whole or "0")
    words = f"{cardinal(count)} {unit}{'' if count == 1 or unit == 'yen' else 's'}"
    if len(fraction) > 2:
        return f"{decimal(amount)} {unit}s"
    small = int(fraction.ljust(2, "0")) if fraction else 0
    if not small:
        return words
    part = f"{cardinal(small)} {cents}{'' if small == 1 or cents == 'pence' else 's'}"
    return part if count == 0 else f"{words} and {part}"


def fraction(top: int, bottom: int) -> str:
    """A fraction: (1, 2) → "one half", (3, 4) → "three quarters", (2, 5) → "two fifths"."""
    if bottom < 2:
        return f"{cardinal(top)} over {cardinal(bottom)}"
    name = {2: "half", 4: "quarter"}.get(bottom) or ordinal(bottom)
    if top == 1:
        return "one " + name
    return f"{cardinal(top)} {'halves' if bottom == 2 else name + 's'}"


def date(year_number: int, month: int, day: int) -> str:
    """A calendar date: (2026, 11, 21) → "november twenty first twenty twenty six"."""
    return f"{MONTHS[month - 1]} {ordinal(day)} {year(year_number)}"
