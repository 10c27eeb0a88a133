"""One utterance spoken, heard, and held against its reference: what makes the rows of an evaluation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final

from sottovoce.compress.evaluate.features import RATE, spoken_part
from sottovoce.compress.evaluate.judges import Judge, words_of
from sottovoce.compress.evaluate.mcd import distortion
from sottovoce.compress.evaluate.reference import Reference
from sottovoce.compress.evaluate.rows import Row
from sottovoce.compress.evaluate.speaker import SpeakerClassifier
from sottovoce.compress.evaluate.synthesise import Subject
from sottovoce.runtime.clip import is_silent, resample
from sottovoce.runtime.session import Floats

METHOD: Final = 1
"""Raised when rows that were made before can no longer be compared with new ones."""


@dataclass(frozen=True)
class Job:
    """A text, by a speaker of the subject, from a seed."""

    text: str
    speaker: str
    seed: int


def jobs_of(texts: Sequence[str], speakers: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """All of them, those of one text and speaker side by side: they share a reference."""
    return [Job(text, speaker, seed) for text in texts for speaker in speakers for seed in seeds]


class Evaluator:
    """Makes rows; `reference` and `classifier` may be None, and what they would tell is then missing."""

    def __init__(
        self, subject: Subject, judge: Judge, reference: Reference | None, classifier: SpeakerClassifier | None
    ) -> None:
        """Of what speaks, what listens, and what both are held against."""
        self.subject, self.judge, self.reference, self.classifier = subject, judge, reference, classifier
        self.listening = f"{judge.identity}, {reference.identity if reference else 'no reference'}"
        self._rendered = lru_cache(maxsize=4)(self._render)

    def key(self, job: Job) -> str:
        """Hash of everything that the row of `job` depends on."""
        prompt = self.subject.prompts[job.speaker]
        parts = [METHOD, self.subject.identity, self.listening, job.text, job.speaker, job.seed]
        parts += [list(prompt.codes), prompt.transcript]
        return sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def row(self, job: Job) -> Row:
        """Speak and judge `job`; raises TextError for a text that the voice cannot say."""
        audio, stats = self.subject.say(job.text, job.speaker, job.seed)
        audio = resample(audio, self.subject.sample_rate, RATE)
        reference = self._rendered(job.text, job.speaker)
        known = self.classifier is not None and job.speaker in self.classifier.names
        return Row(
            text=job.text,
            speaker=job.speaker,
            seed=job.seed,
            seconds=round(len(audio) / RATE, 2),
            said=words_of(job.text),
            heard="" if is_silent(audio) else self.judge.hear(audio),
            stopped=tuple(sentence.stopped for sentence in stats.sentences),
            codes=tuple(len(sentence.codes) for sentence in stats.sentences),
            busy_seconds=round(stats.busy_seconds, 3),
            speech_seconds=_seconds(audio),
            reference_seconds=None if reference is None else _seconds(reference),
            mcd=None if reference is None else _rounded(distortion(audio, reference)),
            recognised=(self.classifier.name(audio) or "nobody") if known and self.classifier else None,
            key=self.key(job),
            system=self.subject.identity,
            judge=self.listening,
        )

    def _render(self, text: str, speaker: str) -> Floats | None:
        """The reference's rendering."""
        return None if self.reference is None else self.reference.render(text, speaker)


def _seconds(audio: Floats) -> float:
    """How long the spoken part of `audio` at 16 kHz is."""
    return round(len(spoken_part(audio)) / RATE, 3)


def _rounded(decibels: float | None) -> float | None:
    """A distortion to three decimals."""
    return None if decibels is None else round(decibels, 3)
