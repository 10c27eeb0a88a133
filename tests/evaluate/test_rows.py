"""Rows on disk, and which utterances count as runaways."""

from pathlib import Path

import pytest

from sottovoce.compress.evaluate.rows import Row, read_rows, runaway, write_rows
from sottovoce.errors import OptionError

ROW = Row("Hé.", "ada", 3, 1.5, "hey", "hay", ("stop token", "max length"), (4, 5), mcd=6.25, key="k")


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows([ROW, Row("b", "bob", 0, 0.0, "b", "")], path)
    assert read_rows(path) == [ROW, Row("b", "bob", 0, 0.0, "b", "")]
    assert "reference_seconds" not in path.read_text()


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW.to_json() + ROW.to_json()[:-1])
    assert read_rows(path) == [ROW]


@pytest.mark.parametrize("line", ['{"text": 1}', '{"surprise": 1}', "no json", '{"text": "a"}'])
def test_something_else_is_an_error_that_names_the_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW.to_json() + line + "\n")
    with pytest.raises(OptionError, match=r"rows.jsonl line 2"):
        read_rows(path)


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        (Row("a", "s", 1, 9.0, "a", "a", ("stop token",)), False),
        (Row("a", "s", 1, 9.0, "a", "a", ("stop token", "max length")), True),
        (Row("a", "s", 1, 9.0, "a", "a", speech_seconds=2.1, reference_seconds=1.0), True),
        (Row("a", "s", 1, 9.0, "a", "a", speech_seconds=0.4, reference_seconds=1.0), True),
        (Row("a", "s", 1, 9.0, "a", "a", speech_seconds=1.9, reference_seconds=1.0), False),
    ],
)
def test_runaways(row: Row, bad: bool) -> None:
    assert runaway(row) is bad
    assert runaway(Row("a", "s", 1, 9.0, "a", "a"), reference_seconds=4.0)
    assert not runaway(Row("a", "s", 1, 9.0, "a", "a"), reference_seconds=5.0)
