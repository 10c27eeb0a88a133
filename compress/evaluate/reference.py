"""What a voice is held against: the same texts by the speakers themselves, from flite or from recordings."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from sottovoce.compress.corpus.layout import Utterance, read_corpus
from sottovoce.compress.corpus.tokens import LONGEST
from sottovoce.compress.evaluate.features import RATE
from sottovoce.compress.evaluate.sentences import SENTENCES
from sottovoce.compress.evaluate.speaker import SpeakerClassifier, describe, train
from sottovoce.errors import CorpusError, OptionError, PromptError
from sottovoce.runtime.clip import read_audio
from sottovoce.runtime.session import Floats

VOICES: Final = ("awb", "kal16", "rms", "slt")
"""flite's general voices at 16 kHz; a build of it may lack some."""

CLIPS: Final = 60
"""Recordings per speaker, at most, that a classifier learns from."""


@dataclass(frozen=True)
class Clip:
    """Speech [S] at 16 kHz of a known speaker; clips of one `group` (a text) are never on both sides of a test."""

    speaker: str
    group: int
    audio: Floats


class Reference(Protocol):
    """Renderings of texts by known speakers; `identity` names where they come from."""

    identity: str

    def render(self, text: str, speaker: str) -> Floats | None:
        """`text` by `speaker`, [S] float32 at 16 kHz; None where the reference lacks it."""
        ...

    def clips(self) -> Iterator[Clip]:
        """Speech of every known speaker."""
        ...


class Flite:
    """The `flite` command: it says any text, in the voice that has the speaker's name."""

    def __init__(self) -> None:
        """Raises OptionError where the command is not installed."""
        try:
            version, voices = (_flite(option).stdout for option in ("--version", "-lv"))
        except FileNotFoundError:
            raise OptionError("--reference flite: the command is not installed (apt-get install flite)") from None
        found = re.search(r"flite-\S+", version)
        self.identity = found[0] if found else "flite"
        # Asked for a voice that it lacks, flite speaks with another one and says nothing.
        self.voices = tuple(voice for voice in VOICES if voice in voices.split())

    def render(self, text: str, speaker: str) -> Floats | None:
        """See `Reference`."""
        if speaker not in self.voices:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "out.wav"
            done = _flite("-voice", speaker, "-t", text, str(path))
            if done.returncode:
                raise OptionError(f"--reference flite cannot say {text!r}: {done.stderr.strip()}")
            return _read(path)

    def clips(self) -> Iterator[Clip]:
        """See `Reference`: the built-in sentences by every voice."""
        for group, text in enumerate(SENTENCES):
            for speaker in self.voices:
                audio = self.render(text, speaker)
                assert audio is not None
                yield Clip(speaker, group, audio)


class Recordings:
    """The recordings of a corpus folder; one is found by its speaker and its exact text.

    Their identity is that of names, sizes, speakers and texts: the sound itself is not hashed.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CorpusError where `folder` is no corpus or an entry of it lacks its words or its recording."""
        corpus = read_corpus(folder)
        self._utterances = [u for u in corpus.utterances if u.kind == "audio"]
        missing = [f"{u.id}: no such file" for u in self._utterances if not u.path.is_file()]
        if problems := [*corpus.problems, *missing]:
            raise CorpusError(f"{folder}: {len(problems)} cannot be used, the first: {problems[0]}")
        listed = "\n".join(f"{u.id} {u.path.stat().st_size} {u.speaker} {u.text}" for u in self._utterances)
        self.identity = f"recordings {sha256(listed.encode()).hexdigest()[:16]}"

    @cached_property
    def _by_text(self) -> dict[tuple[str, str], Utterance]:
        """Utterances by speaker and text."""
        return {(u.speaker, u.text): u for u in self._utterances}

    def render(self, text: str, speaker: str) -> Floats | None:
        """See `Reference`."""
        found = self._by_text.get((speaker, text))
        return None if found is None else _read(found.path)

    def clips(self) -> Iterator[Clip]:
        """See `Reference`: the first recordings of each speaker."""
        taken: dict[str, int] = {}
        groups: dict[str, int] = {}
        for utterance in self._utterances:
            taken[utterance.speaker] = taken.get(utterance.speaker, 0) + 1
            if taken[utterance.speaker] <= CLIPS:
                yield Clip(utterance.speaker, groups.setdefault(utterance.text, len(groups)), _read(utterance.path))


def open_reference(wanted: str | None) -> Reference | None:
    """`flite`, a corpus folder, or none."""
    if wanted is None:
        return None
    return Flite() if wanted == "flite" else Recordings(Path(wanted))


def classifier_of(reference: Reference) -> SpeakerClassifier | None:
    """A classifier of the reference's speakers; None where it knows only one."""
    clips = [(clip, vector) for clip in reference.clips() if (vector := describe(clip.audio)) is not None]
    speakers = [clip.speaker for clip, _ in clips]
    if len(set(speakers)) < 2:
        return None
    return train(np.array([vector for _, vector in clips]), speakers, [clip.group for clip, _ in clips])


def _flite(*options: str) -> subprocess.CompletedProcess[str]:
    """The command's end, and what it printed. It tells its version with exit status 1."""
    return subprocess.run(["flite", *options], check=False, capture_output=True, text=True)


def _read(path: Path) -> Floats:
    """The audio file at `path`, [S] float32 at 16 kHz; raises CorpusError."""
    try:
        return read_audio(path, RATE, LONGEST)
    except PromptError as error:
        raise CorpusError(str(error)) from None
