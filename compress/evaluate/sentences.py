"""Sentences to judge a voice by where the user brings none; written for this project, in plain everyday words."""

from pathlib import Path
from typing import Final

from sottovoce.errors import OptionError

SENTENCES: Final = (
    "The train to the coast leaves at twenty past nine.",
    "Please put the blue cups on the top shelf.",
    "My brother fixed the kitchen window on Saturday.",
    "It will rain in the morning and clear up by noon.",
    "Turn left after the bridge and look for the red door.",
    "She wrote a long letter to her old teacher.",
    "We need four eggs, some butter and a bag of flour.",
    "The meeting was moved to the second of March.",
    "Nobody knew why the lights went out.",
    "He walked along the river until it was dark.",
    "Could you tell me where the nearest station is?",
    "The old farmer sold his horses last year.",
    "Your package will arrive on Wednesday before five.",
    "Children were playing football behind the school.",
    "I have never seen so many stars in one night.",
    "The doctor asked him to rest for a week.",
    "There is fresh bread on the table.",
    "A cold wind came down from the mountains.",
    "Remember to lock the back door when you leave.",
    "They built the house with their own hands.",
    "How long does it take to drive to the city?",
    "The battery of your phone is almost empty.",
    "Our neighbor grows tomatoes and green beans.",
    "The music stopped and everybody looked around.",
    "You should drink more water in the summer.",
    "The ship was loaded with coal and timber.",
    "Mary found a silver ring on the beach.",
    "The price of coffee went up again this month.",
    "Open the book and read the first page aloud.",
    "Two men carried the piano up the stairs.",
    "The dog barked at the mailman as usual.",
    "I would like a table for three people, please.",
    "Snow covered the fields as far as we could see.",
    "The film was shorter than I had expected.",
    "Set a timer for fifteen minutes.",
    "What did your sister say about the plan?",
    "The museum is closed on Mondays in winter.",
    "He paid for the tickets and waited outside.",
    "Every student was given a pencil and some paper.",
    "Good night, and thank you for a lovely evening.",
)


def read_sentences(path: Path | None) -> tuple[str, ...]:
    """The lines of `path`, the built-in ones without it; raises OptionError where it holds none."""
    if path is None:
        return SENTENCES
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--sentences {path} cannot be read: {error}") from None
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not texts:
        raise OptionError(f"--sentences {path} is empty: one sentence per line is needed")
    return texts
