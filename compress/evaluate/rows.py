"""One judged utterance, and the JSONL files they are kept in."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from sottovoce.errors import BundleError, OptionError
from sottovoce.runtime.output import written_whole
from sottovoce.runtime.parse import parse
from sottovoce.runtime.strict_json import decode_json

SHORTEST: Final = 0.5
LONGEST: Final = 2.0
"""Times the reference's length: an utterance outside of them is cut or has run away."""


@dataclass(frozen=True)
class Row:
    """One utterance as it was judged; what was not measured is None or empty.

    `said` and `heard` are words as they are compared; `seconds` is all of the audio, `busy_seconds` what making it
    took; `stopped` and `codes` (how many) have an entry per sentence; `speech_seconds` and `reference_seconds` leave
    out the silence at both ends; `mcd` is in dB; `recognised` is the speaker that the classifier names. `key` is a hash
    of everything the row depends on, `system` and `judge` what spoke and what listened.
    """

    text: str
    speaker: str
    seed: int
    seconds: float
    said: str
    heard: str
    stopped: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    busy_seconds: float | None = None
    speech_seconds: float | None = None
    reference_seconds: float | None = None
    mcd: float | None = None
    recognised: str | None = None
    key: str = ""
    system: str = ""
    judge: str = ""

    @property
    def job(self) -> tuple[str, str, int]:
        """What two systems must share to be compared: text, speaker and seed."""
        return self.text, self.speaker, self.seed

    def to_json(self) -> str:
        """The row as a line of JSON, without fields that were not measured."""
        value = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return json.dumps(value, ensure_ascii=False) + "\n"


def runaway(row: Row, reference_seconds: float | None = None) -> bool:
    """Whether `row` ended other than by a stop token, or lasts under 0.5 or over 2 times the reference's rendering.

    `reference_seconds` stands for the whole utterance where the row itself has no reference.
    """
    if any(reason != "stop token" for reason in row.stopped):
        return True
    if row.reference_seconds and row.speech_seconds is not None:
        return not SHORTEST < row.speech_seconds / row.reference_seconds < LONGEST
    return reference_seconds is not None and not SHORTEST < row.seconds / reference_seconds < LONGEST


def read_rows(path: Path) -> list[Row]:
    """Rows of a results file; a last line that a kill cut short is left out.

    Raises OptionError for a file that cannot be read or holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from None
    return [_row(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _row(line: str, where: str) -> Row:
    """One line as a row."""
    try:
        row: Row = parse(Row, decode_json(line), where)
    except (BundleError, ValueError) as error:
        raise OptionError(f"{where} is no row of an evaluation ({error}): remove the file, or name another") from None
    return row


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write `rows` to `path`, whole or not at all; raises OutputError."""
    with written_whole(path) as file:
        for row in rows:
            file.write(row.to_json().encode())
