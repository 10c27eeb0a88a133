"""Stage 1: a lexicon in the teacher's own phones.

`python -m examples.reference_voice.lexicon -o voices/reference/lexicon.txt` asks flite for the phones of every word of
the CMU pronouncing dictionary (the word list shipped with pocketsphinx), one word per utterance. Sorted by bytes, one
`word<TAB>phones` line each, so that the runtime can search the file without loading it.
"""

import argparse
import re
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

CHUNK = 2000
"""Words per flite process: enough to hide its start-up, few enough to retry."""

ARTICLE = {"a": "ax"}
"""Alone, flite reads "a" as the letter's name; in a sentence as the article."""


def word_list() -> list[str]:
    """The dictionary's words of letters and apostrophes, without alternate readings, sorted by bytes."""
    path = files("pocketsphinx") / "model" / "en-us" / "cmudict-en-us.dict"
    words = {line.split(maxsplit=1)[0] for line in path.read_text(encoding="utf-8").splitlines() if line}
    return sorted(w for w in words if re.fullmatch(r"[a-z][a-z']*", w))


def phones(words: list[str]) -> list[str]:
    """Space-separated flite phones of each word; words that flite splits or drops are asked for one at a time."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\n\n".join(words) + "\n\n")
    command = ["flite", "-voice", "kal", "-ps", "-f", file.name, "none"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    Path(file.name).unlink()
    lines = [" ".join(p for p in line.split() if p != "pau") for line in out.splitlines()]
    if len(lines) == len(words):
        return lines
    if len(words) == 1:
        return [" ".join(lines)]
    middle = len(words) // 2
    return phones(words[:middle]) + phones(words[middle:])


def main() -> None:
    """Write the lexicon file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    words = word_list()
    rows = []
    for start in range(0, len(words), CHUNK):
        chunk = words[start : start + CHUNK]
        rows += [f"{w}\t{ARTICLE.get(w, p)}\n" for w, p in zip(chunk, phones(chunk), strict=True) if p]
        print(f"{start + len(chunk)} of {len(words)} words", flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
