"""Rows are made once, whatever kills the run and however many processes share it."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import PartialState

from sottovoce.compress.evaluate.rows import Row, read_rows
from sottovoce.compress.evaluate.run import check_same, run_rows
from sottovoce.errors import OptionError, OutputError

SHARED = """
import sys
from pathlib import Path
from accelerate import PartialState
from sottovoce.compress.evaluate.rows import Row
from sottovoce.compress.evaluate.run import run_rows
state = PartialState(cpu=True)
make = lambda i: Row(f"t{i}", str(state.process_index), 1, 1.0, "a", "a", key=f"k{i}")
rows = run_rows([f"k{i}" for i in range(5)], make, Path(sys.argv[1]), state)
assert [row.key for row in rows] == [f"k{i}" for i in range(5)]
"""


@pytest.fixture
def made() -> list[int]:
    return []


@pytest.fixture
def make(made: list[int]):
    def make(i: int) -> Row:
        made.append(i)
        return Row(f"t{i}", "ada", 1, 1.0, "a", "a", key=f"k{i}", system="s", judge="j")

    return make


def keys(count: int) -> list[str]:
    return [f"k{i}" for i in range(count)]


def test_rows_that_exist_are_kept(make, made: list[int], tmp_path: Path) -> None:
    path, state = tmp_path / "rows.jsonl", PartialState(cpu=True)
    run_rows(keys(3), make, path, state)
    rows = run_rows(keys(5), make, path, state)
    assert made == [0, 1, 2, 3, 4]
    assert [row.key for row in rows] == keys(5)
    assert [row.key for row in run_rows(["k4"], make, path, state)] == ["k4"]
    assert read_rows(path) == rows and list(tmp_path.iterdir()) == [path]


def test_a_killed_run_goes_on(make, made: list[int], tmp_path: Path) -> None:
    """Two processes were killed, one of them in the middle of a line."""
    path = tmp_path / "rows.jsonl"
    (tmp_path / ".rows.jsonl.0.part").write_text(make(0).to_json() + make(2).to_json()[:-9])
    (tmp_path / ".rows.jsonl.1.part").write_text(make(1).to_json())
    (tmp_path / ".other.jsonl.0.part").write_text("another run's")
    made.clear()
    run_rows(keys(4), make, path, PartialState(cpu=True))
    assert made == [2, 3]
    assert [row.key for row in read_rows(path)] == keys(4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.jsonl.0.part", "rows.jsonl"]


def test_processes_share_the_work(tmp_path: Path) -> None:
    script, path = tmp_path / "shared.py", tmp_path / "rows.jsonl"
    script.write_text(SHARED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run([*launch, str(script), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(row.key, row.speaker) for row in read_rows(path)] == [(f"k{i}", str(i % 2)) for i in range(5)]


def test_rows_of_another_voice_or_judge_are_not_mixed_in(make, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    check_same(path, "s", "j")
    (tmp_path / ".rows.jsonl.3.part").write_text(make(0).to_json())
    check_same(path, "s", "j")
    with pytest.raises(OptionError, match="another voice"):
        check_same(path, "other", "j")
    with pytest.raises(OptionError, match="another judge"):
        check_same(path, "s", "other")


def test_a_full_disk_keeps_earlier_rows(make, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "rows.jsonl"

    class Full:
        """A file that takes one row."""

        def __init__(self, file) -> None:
            self.file, self.count = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

        def write(self, line: bytes) -> int:
            self.count += 1
            if self.count > 1:
                raise OSError(28, "No space left on device")
            return self.file.write(line)

    opened = Path.open
    full = lambda self, mode="r", *rest, **more: (  # noqa: E731
        Full(opened(self, mode, *rest, **more)) if mode == "ab" else opened(self, mode, *rest, **more)
    )
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
        patch.setattr(Path, "open", full)
        run_rows(keys(3), make, path, PartialState(cpu=True))
    assert [row.key for row in run_rows(keys(1), make, path, PartialState(cpu=True))] == ["k0"]
