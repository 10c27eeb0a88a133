"""Rows of an evaluation, made once each: split over processes by accelerate, kept as they come, resumed after a kill.

Every process appends to a part of its own beside the results file, `.NAME.RANK.part`. Parts that a kill has left are
gathered into the file before the work goes on, and those of this run when it ends, in the order of the work.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from accelerate import PartialState
from rich.console import Console
from rich.progress import Progress

from sottovoce.compress.evaluate.rows import Row, read_rows, write_rows
from sottovoce.errors import OptionError, OutputError
from sottovoce.runtime.output import check_output

PAUSE: Final = 30.0
"""Least seconds between two plain lines of progress."""


def run_rows(keys: Sequence[str], make: Callable[[int], Row], output: Path, state: PartialState) -> list[Row]:
    """The rows called `keys`, in order; those that the file lacks are made by `make`, given their number.

    Rows that `output` holds beyond them are kept. Raises OutputError where the disk refuses; rows made by then are
    kept.
    """
    check_output(output)
    state.wait_for_everyone()  # others may still be reading the parts that are about to go
    if state.is_main_process:
        _gather(output, keys)
    state.wait_for_everyone()
    done = {row.key for row in _kept(output)}
    missing = [i for i, key in enumerate(keys) if key not in done]
    state.wait_for_everyone()
    share = missing[state.process_index :: state.num_processes]
    _append(_part(output, state.process_index), make, share, state.is_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        _gather(output, keys)
    state.wait_for_everyone()
    found = {row.key: row for row in _kept(output)}
    return [found[key] for key in keys]


def check_same(output: Path, system: str, judge: str) -> None:
    """Raise OptionError where `output` or a part of it holds rows of another voice or judge: they would be mixed."""
    for path in [output, *_parts(output)]:
        for row in read_rows(path) if path.exists() else ():
            if (row.system, row.judge) != (system, judge):
                what = "voice" if row.system != system else "judge"
                raise OptionError(f"{output} holds rows of another {what}: choose another --output")


def _append(part: Path, make: Callable[[int], Row], numbers: Sequence[int], told: bool) -> None:
    """Make the rows `numbers` and append each to `part` as soon as it is there; say how far it is where `told`."""
    if not numbers:
        return
    with part.open("ab", buffering=0) as file:
        for i in _told(numbers) if told else numbers:
            line = make(i).to_json().encode()
            try:
                written = file.write(line)
            except OSError as error:
                raise OutputError(f"{part} cannot be written: {error.strerror}; earlier rows are kept") from None
            if written < len(line):
                raise OutputError(f"{part} cannot be written: the disk is full; earlier rows are kept")


def _told(numbers: Sequence[int]) -> Iterator[int]:
    """`numbers` with a progress bar on a terminal, or a plain line now and then."""
    console = Console(file=sys.stderr)
    began = told = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        for count, number in enumerate(progress.track(numbers, description="evaluate")):
            now = time.monotonic()
            if not console.is_terminal and count and now - told >= PAUSE:
                told, left = now, (now - began) / count * (len(numbers) - count)
                print(f"{count}/{len(numbers)} utterances, {left / 60:.0f} min left", file=sys.stderr, flush=True)
            yield number


def _gather(output: Path, keys: Sequence[str]) -> None:
    """Put the rows of all parts into `output`, those of `keys` first and in their order, and remove the parts."""
    parts = _parts(output)
    if not parts:
        return
    place = {key: i for i, key in enumerate(keys)}
    rows = {row.key: row for path in [output, *parts] for row in _kept(path)}
    write_rows(sorted(rows.values(), key=lambda row: place.get(row.key, len(place))), output)
    for path in parts:
        path.unlink()


def _kept(path: Path) -> list[Row]:
    """The rows of `path`, none where it does not exist."""
    return read_rows(path) if path.exists() else []


def _part(output: Path, rank: int) -> Path:
    """Where process `rank` appends."""
    return output.with_name(f".{output.name}.{rank}.part")


def _parts(output: Path) -> list[Path]:
    """The parts that lie beside `output`, of whatever run."""
    prefix = f".{output.name}."
    return sorted(p for p in output.parent.glob(".*.part") if p.name.startswith(prefix) and _is_rank(p.name, prefix))


def _is_rank(name: str, prefix: str) -> bool:
    """Whether `name` is a part's: prefix, number, `.part`."""
    return name.removeprefix(prefix).removesuffix(".part").isdigit()
