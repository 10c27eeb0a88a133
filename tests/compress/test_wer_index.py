"""The word error index: layers skipped in the runtime's own loop, rows made once, processes that share them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState

from sottovoce.compress.evaluate.evaluator import Evaluator
from sottovoce.compress.evaluate.rows import read_rows
from sottovoce.compress.evaluate.synthesise import Subject, open_subject
from sottovoce.compress.layer_index import measure_rounds
from sottovoce.compress.layers import keep_in_config, keep_layers
from sottovoce.compress.wer_index import WerIndex, skip_layers
from sottovoce.models.checkpoint import save_weights
from sottovoce.models.voice import Voice
from tests.tiny import save_voice

TEXTS = ("hello there", "hello you", "good night")


class Fickle:
    """A judge that hears what was said, but for the voice that makes the samples of `bad`."""

    identity = "fickle"

    def __init__(self) -> None:
        self.bad: set[bytes] = set()
        self.heard = 0

    def hear(self, audio: np.ndarray) -> str:
        self.heard += 1
        return "something else" if audio.tobytes() in self.bad else "hello there"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of three layers."""
    sampling = {"temperature": 0.8, "min_ratio": 0.5, "max_ratio": 1.0, "max_extra": 2}
    return save_voice(tmp_path_factory.mktemp("voices") / "three", hf={"num_hidden_layers": 3}, sampling=sampling)


@pytest.fixture
def subject(three: Path) -> Subject:
    return open_subject(three, [], threads=1)


def test_a_voice_that_skips_layers_says_what_a_voice_without_them_says(
    three: Path, subject: Subject, tmp_path: Path
) -> None:
    voice = Voice.open(three)
    section = voice.checkpoint.hf["sottovoce"]
    hf = keep_in_config(voice.checkpoint.hf, voice.checkpoint.config.traits, (0, 2))
    folder = save_voice(tmp_path / "two", hf=hf, **section)
    save_weights(keep_layers(voice.checkpoint.load(), (0, 2)), folder)
    skipping, without = skip_layers(subject, [1]), open_subject(folder, [], threads=1)
    mine, theirs = (s.say(TEXTS[0], "bob", 3) for s in (skipping, without))
    assert mine[1].sentences[0].codes == theirs[1].sentences[0].codes
    np.testing.assert_array_equal(mine[0], theirs[0])
    assert not np.array_equal(mine[0], subject.say(TEXTS[0], "bob", 3)[0])
    assert skipping.identity != subject.identity == skip_layers(subject, []).identity


def measure(subject: Subject, rows: Path, judge: Fickle | None = None) -> WerIndex:
    """Over three sentences."""
    return WerIndex(subject, TEXTS, judge or Fickle(), rows, PartialState(cpu=True))


def test_scores_are_word_errors_and_speakers_take_turns(subject: Subject, tmp_path: Path) -> None:
    judge = Fickle()
    index = measure(subject, tmp_path / "rows.jsonl", judge)
    assert [job.speaker for job in index.jobs] == ["ada", "bob", "ada"]
    skipping = skip_layers(subject, [2])
    judge.bad = {skipping.say(job.text, job.speaker, job.seed)[0].tobytes() for job in index.jobs}
    found = index((), (0, 1, 2))
    # "hello there" for three sentences of two words: 0 + 1 + 2 words wrong of 6; nothing right without layer 2.
    assert found.whole == pytest.approx(3 / 6)
    assert [(s.layer, s.value) for s in found.scores] == [(0, 0.5), (1, 0.5), (2, 1.0)]
    assert all(s.low is not None and s.high is not None and s.low <= s.value <= s.high for s in found.scores)
    assert found.order() == [1, 0, 2]
    assert judge.heard == 4 * 3 == len(read_rows(tmp_path / "rows.jsonl"))


def test_rows_are_made_once_over_rounds_and_runs(subject: Subject, tmp_path: Path, monkeypatch: Any) -> None:
    made: Any = []
    row: Callable[..., Any] = Evaluator.row
    monkeypatch.setattr(Evaluator, "row", lambda self, job: made.append(self.subject.identity) or row(self, job))
    rounds = measure_rounds(measure(subject, tmp_path / "rows.jsonl"), 3, 1, "iterative")
    # All, each of three; then of the two left each (the round's own start was measured before).
    assert len(made) == 3 * (1 + 3 + 2)
    assert [len(r.scores) for r in rounds] == [3, 2] and rounds[1].dropped == (2,)
    made.clear()
    assert measure_rounds(measure(subject, tmp_path / "rows.jsonl"), 3, 1, "iterative") == rounds
    assert not made
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / ".rows.jsonl.1.part").write_text("".join(rows[:4]) + rows[4][:30])  # a process was killed
    assert measure_rounds(measure(subject, tmp_path / "rows.jsonl"), 3, 1, "iterative") == rounds
    assert len(made) == 18 - 4


SHARED = """
import sys
from pathlib import Path
from accelerate import PartialState
from sottovoce.compress.evaluate.synthesise import open_subject
from tests.compress.test_wer_index import measure
found = measure(open_subject(Path(sys.argv[1]), [], 1), Path(sys.argv[2]))((), (0, 1, 2))
print([score.value for score in found.scores], flush=True)
"""


def test_processes_share_the_rows(three: Path, subject: Subject, tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*launch, str(three), str(tmp_path / "rows.jsonl")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone = measure(subject, tmp_path / "alone.jsonl")((), (0, 1, 2))
    assert done.stdout.count(str([score.value for score in alone.scores])) == 2
    keys = [[row.key for row in read_rows(tmp_path / name)] for name in ("rows.jsonl", "alone.jsonl")]
    assert keys[0] == keys[1]


def test_a_voice_that_says_nothing_is_wrong_in_every_word(tmp_path: Path) -> None:
    """Skipping a layer may make it stop at once."""
    folder = save_voice(tmp_path / "voice", sampling={"temperature": 0.0, "min_ratio": 0.0})
    subject = open_subject(folder, [], threads=1)
    session: Any = subject.bundle.decoder
    with torch.no_grad():
        session.ids = session.ids.clone()
        session.decoder.logits = lambda hidden: torch.nn.functional.one_hot(torch.tensor([[48]]), 100).float()
    assert len(subject.say(TEXTS[0], "ada", 1)[0]) == 0
    judge = Fickle()
    found = WerIndex(subject, TEXTS[:1], judge, tmp_path / "rows.jsonl", PartialState(cpu=True))
    assert found((), ()).whole == 1.0 and judge.heard == 0
