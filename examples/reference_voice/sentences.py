"""Sentences to train and test on: device announcements from a grammar, and wide text of words drawn by frequency.

Everything comes out in spoken form (words and marks), from a seed. Words of `general.txt` (the open-vocabulary test)
that are not among the most frequent ones are kept out of all training text.
"""

import math
import random
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from examples.reference_voice.grammar import SLOTS, TEMPLATES
from sottovoce.runtime.text import numbers as n
from sottovoce.runtime.text.normalise import normalise

HERE = Path(__file__).parent
COMMON = 600
"""Test words among this many most frequent ones may occur in training."""
LONGEST = 210
"""Letters of a long text: its symbols then fit `layout.MAX_TEXT`."""


def _filler(rng: random.Random, slot: str, held_out: bool) -> str:
    """A filler for `slot`, its star kept; computed ones (numbers, times) or one of the list."""
    if slot in _COMPUTED:
        return _COMPUTED[slot](rng)
    options = [o.strip() for o in SLOTS[slot].split(",")]
    fresh = [o for o in options if o[0] == "*"]
    if held_out and fresh and rng.random() < 0.5:
        return rng.choice(fresh)
    return rng.choice([o for o in options if o[0] != "*"])


def _minutes(rng: random.Random) -> str:
    count = rng.choice([*range(1, 13), *range(15, 61, 5)])
    unit = rng.choice(["minute", "minute", "minute", "second", "hour"])
    return f"{n.cardinal(count)} {unit}{'' if count == 1 else 's'}"


def _distance(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return n.cardinal(rng.choice([50, *range(100, 1000, 50)])) + rng.choice([" meters", " feet", " yards"])
    count = rng.randint(1, 40)
    half = rng.choice(["", "", " point five"])
    return f"{n.cardinal(count)}{half} {rng.choice(['kilometer', 'mile'])}{'' if count == 1 and not half else 's'}"


def _money(rng: random.Random) -> str:
    cents = rng.choice(["", "", ".50", ".99", ".25", f".{rng.randint(1, 99):02d}"])
    return n.money(f"{rng.randint(1, 200)}{cents}", rng.choice(["dollar", "dollar", "euro", "pound"]), "cent")


def _time(rng: random.Random) -> str:
    return n.clock(rng.randint(1, 12), rng.choice([0, 5, 10, 15, 20, 30, 40, 45, rng.randint(0, 59)])) + rng.choice(
        ["", "", " ay m", " p m"]
    )


_COMPUTED = {
    "minutes": _minutes,
    "distance": _distance,
    "money": _money,
    "time": _time,
    "hour": lambda rng: n.cardinal(rng.randint(1, 12)),
    "count": lambda rng: n.cardinal(rng.randint(2, 99)),
    "small": lambda rng: n.cardinal(rng.randint(2, 9)),
    "degrees": lambda rng: rng.choice(["", "", "minus "]) + n.cardinal(rng.randint(1, 40)) + " degrees",
    "digits": lambda rng: n.digits("".join(rng.choice("0123456789") for _ in range(rng.randint(3, 5)))),
    "ordinal": lambda rng: n.ordinal(rng.randint(1, 12)),
}


def announcement(rng: random.Random, held_out: bool = False) -> str:
    """One sentence of the grammar; a `held_out` one has a template or a filler that training never sees."""
    templates = [t for t in TEMPLATES if held_out or not t.startswith("*")]
    while True:
        starred = [t for t in templates if t.startswith("*")]
        template = rng.choice(starred if starred and rng.random() < 0.5 else templates)
        text = re.sub(r"\{(\w+)\}", lambda m: _filler(rng, m[1], held_out), template)
        if not held_out or "*" in text:
            return text.replace("*", "") + ("" if text.endswith("?") else ".")


@cache
def _frequencies() -> tuple[list[str], list[float]]:
    """Dictionary words known to pocketsphinx's language model, most frequent first, and their log probabilities."""
    from pocketsphinx import Config, LogMath, NGramModel

    folder = files("pocketsphinx") / "model" / "en-us"
    model = NGramModel(Config(lm=str(folder / "en-us.lm.bin")), LogMath(), str(folder / "en-us.lm.bin"))
    lines = (folder / "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines()
    words = {line.split(maxsplit=1)[0] for line in lines if re.match(r"[a-z][a-z']*\s", line)}
    scored = sorted(((model.prob([w]) * math.log(1.0001), w) for w in words), reverse=True)
    known = [(p, w) for p, w in scored if p > -100 and (len(w) > 1 or w in ("a", "i"))]
    return [w for _, w in known], [p for p, _ in known]


@cache
def held_out_words() -> frozenset[str]:
    """Words of the general test that training never says."""
    words, _ = _frequencies()
    common = set(words[:COMMON])
    test = {w for line in general() for w in normalise(line) if w not in ",.?"}
    return frozenset(test - common)


def general() -> list[str]:
    """The open-vocabulary test sentences."""
    return (HERE / "general.txt").read_text(encoding="utf-8").split("\n")[:-1]


@cache
def _weights(power: float) -> tuple[list[str], list[float]]:
    """Training words and cumulative weights p^power."""
    words, logs = _frequencies()
    kept = [(w, math.exp(power * p)) for w, p in zip(words, logs, strict=True) if w not in held_out_words()]
    total, cumulative = 0.0, []
    for _, weight in kept:
        total += weight
        cumulative.append(total)
    return [w for w, _ in kept], cumulative


def wide(rng: random.Random) -> str:
    """A string of words drawn by a flattened frequency: no context to lean on, so the text must be read."""
    words, cumulative = _weights(rng.choice([0.3, 0.5, 0.8]))
    count = min(14, 2 + int(rng.expovariate(1 / 5)))
    out = rng.choices(words, cum_weights=cumulative, k=count)
    if count > 5 and rng.random() < 0.4:
        out[rng.randint(2, count - 3)] += ","
    return " ".join(out) + rng.choice([".", ".", ".", "?"])


def training_sentence(rng: random.Random) -> str:
    """Announcements and wide text, 2 : 3; announcements with held-out words are drawn again."""
    while True:
        text = announcement(rng) if rng.random() < 0.4 else wide(rng)
        if not held_out_words().intersection(re.findall(r"[a-z']+", text)):
            return text


def test_sentences(count: int, seed: int = 7) -> list[str]:
    """Announcements with a held-out template or filler, without repeats."""
    rng = random.Random(seed)
    out: dict[str, None] = {}
    while len(out) < count:
        out[announcement(rng, held_out=True)] = None
    return list(out)


def long_texts(count: int) -> list[str]:
    """Four announcements in one breath, joined by commas: about four times as long as what training says.

    None is longer than what the voice takes at once, so none is split.
    """
    said = iter(test_sentences(12 * count))
    out: list[str] = []
    while len(out) < count:
        text = ", ".join(next(said).rstrip(".?") for _ in range(4)) + "."
        if len(text) <= LONGEST:
            out.append(text)
    return out
