"""What a candidate of `export --fit` loses against its voice: nats per token, or word errors where it is heard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from sottovoce.runtime.strict_json import read_json

if TYPE_CHECKING:
    from sottovoce.compress.evaluate.rows import Row

SPEAKERS: Final = 2
"""Presets that are heard: the voice's first ones."""


class Judge(Protocol):
    """Says how far a bundle is from its voice; `most` is how far it may be."""

    name: str
    most: float

    def loss(self, bundle: Path) -> float:
        """Of a verified bundle."""
        ...


class ByTokens:
    """Mean KL to torch under the same window, as it was measured when the bundle was exported; nats per token."""

    name = "KL"

    def __init__(self, most: float) -> None:
        """Allow `most` nats."""
        self.most = most

    def loss(self, bundle: Path) -> float:
        """See `Judge`."""
        value: float = read_json(bundle / "parity.json")["decoder"]["kl"]
        return value


class ByWords:
    """Word error rate above the voice's own as torch runs it, in points, by `evaluate`; rows are kept in `folder`.

    It is the paired difference or, where that is larger, the upper end of its 95 % interval less the point of slack
    that every such gate has.
    """

    name = "WER"

    def __init__(self, most: float, voice: Path, sentences: Path | None, folder: Path, threads: int) -> None:
        """Allow `most` points over `sentences` (None: the forty built-in ones); needs the extra `evaluate`."""
        from sottovoce.compress.evaluate.sentences import read_sentences

        self.most, self.voice, self.folder, self.threads = most, voice, folder, threads
        self.texts = read_sentences(sentences)

    def loss(self, bundle: Path) -> float:
        """See `Judge`; the voice itself is heard the first time."""
        from sottovoce.compress.evaluate.summary import summarise
        from sottovoce.compress.evaluate.wer import SLACK

        found = summarise(self._rows(bundle), self._rows(self.voice), None).differences["wer"]
        return max(100 * found.value, 100 * found.high - SLACK)

    def _rows(self, folder: Path) -> "Sequence[Row]":
        """What was heard of the bundle or the voice in `folder`; what is known already is not spoken again."""
        from accelerate import PartialState

        from sottovoce.compress.evaluate.evaluator import Evaluator, jobs_of
        from sottovoce.compress.evaluate.judges import open_judge
        from sottovoce.compress.evaluate.run import run_rows
        from sottovoce.compress.evaluate.synthesise import open_subject

        subject = open_subject(folder, [], self.threads)
        evaluator = Evaluator(subject, open_judge("pocketsphinx", None), None, None)
        jobs = jobs_of(self.texts, list(subject.prompts)[:SPEAKERS], [1])
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{subject.identity[:16]}.jsonl"
        keys = [evaluator.key(job) for job in jobs]
        return run_rows(keys, lambda i: evaluator.row(jobs[i]), path, PartialState(cpu=True))
