"""Text → audio on an open bundle, chunk by chunk: the library's way in.

bundle = load_bundle("voice.bundle")
speech = speak(bundle, "Good morning.", find_prompt(bundle, None), seed=7)
for chunk in speech:      # float32 samples at speech.sample_rate, the first after a fraction of a second
    play(chunk)
print(speech.stats())
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.codec import CodecStream
from sottovoce.runtime.decode import PREFILL_CHUNK
from sottovoce.runtime.manifest import Manifest, Prompt, SamplingSpec
from sottovoce.runtime.philox import MAX_SEED, checked_seed
from sottovoce.runtime.prefix import build_prefix, text_room
from sottovoce.runtime.sampling import check_sampling
from sottovoce.runtime.session import Floats
from sottovoce.runtime.source import open_source
from sottovoce.runtime.text.frontend import Sentence
from sottovoce.runtime.utterance import Generation, Source, Stopped, Utterance

PAUSE: Final = 0.25
"""Seconds of silence between sentences."""

FIRST_CHUNK: Final = 0.16
"""Seconds of speech in an utterance's first chunk: short, because somebody is waiting."""

LAST_CHUNK: Final = 1.0
"""Seconds of speech that chunks, doubling, grow to: larger ones cost less per second."""


@dataclass(frozen=True)
class SentenceStats:
    """One spoken sentence; `seed` says it again alone, times are in seconds."""

    read: str
    seed: int
    text_tokens: int
    prefix_tokens: int
    codes: tuple[int, ...]
    stopped: Stopped
    prefill_seconds: float
    step_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Stats:
    """What an utterance took so far; the consumer's time between chunks is not counted.

    `ttfa_seconds`, the time to the first audio, is None while there is none.
    """

    audio_seconds: float
    busy_seconds: float
    ttfa_seconds: float | None
    cache_bytes: int
    sentences: tuple[SentenceStats, ...]

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds of work per second of audio; None while there is none."""
        return self.busy_seconds / self.audio_seconds if self.audio_seconds else None


@dataclass(frozen=True)
class Job:
    """One sentence ready to be spoken."""

    sentence: Sentence
    utterance: Utterance


def speak(
    bundle: Bundle,
    text: str,
    prompt: Prompt,
    *,
    seed: int = 0,
    sampling: SamplingSpec | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
) -> "Speech":
    """`text` as speech of the speaker `prompt`, sentence n drawing its random numbers from `seed` + n.

    `sampling` replaces the voice's defaults; `prefill_chunk` bounds how many prefix tokens are run at once. Raises
    TextError, PromptError or OptionError now rather than while the audio is being made.
    """
    start = time.perf_counter()
    spec = sampling or bundle.voice.sampling
    check_sampling(spec)
    jobs = []
    for number, sentence in enumerate(bundle.voice.frontend.sentences(text, text_room(bundle, prompt))):
        length = len(sentence.ids)
        prefix = build_prefix(bundle, sentence.ids, prompt)
        lengths = token_limits(bundle.manifest, spec, length)
        jobs.append(Job(sentence, Utterance(prefix, spec, checked_seed(seed) + number & MAX_SEED, *lengths)))
    return Speech(bundle, jobs, open_source(bundle, prefill_chunk), time.perf_counter() - start)


def token_limits(manifest: Manifest, spec: SamplingSpec, text_tokens: int) -> tuple[int, int]:
    """Fewest and most tokens a sentence may have; past the voice's longest utterance, a full window would wrap."""
    shortest = math.ceil(spec.min_ratio * text_tokens)
    longest = max(1, shortest, int(spec.max_ratio * text_tokens) + spec.max_extra)
    most = manifest.max_new_tokens or longest
    return min(shortest, most), min(longest, most)


class Speech:
    """An utterance being made: iterate once for its PCM chunks, [S] float32 each; `speak` makes one."""

    def __init__(self, bundle: Bundle, jobs: Sequence[Job], source: Source, busy_seconds: float) -> None:
        """Let `source` say `jobs` after each other; `busy_seconds` is what preparing them took."""
        self.bundle = bundle
        self.jobs = jobs
        self.sample_rate = bundle.voice.codec.sample_rate
        self.source = source
        self._busy = busy_seconds
        self._ttfa: float | None = None
        self._samples = 0
        self._done: list[SentenceStats] = []

    def __iter__(self) -> Iterator[Floats]:
        """Yield chunks as soon as they are ready."""
        chunks = self._chunks()
        while True:
            start = time.perf_counter()
            chunk = next(chunks, None)
            self._busy += time.perf_counter() - start
            if chunk is None:
                return
            if not self._samples:
                self._ttfa = self._busy
            self._samples += len(chunk)
            yield chunk

    def whole(self) -> Floats:
        """All chunks as one array [S] float32."""
        return np.concatenate([np.zeros(0, np.float32), *self])

    def stats(self) -> Stats:
        """Figures of what was made so far."""
        seconds = self._samples / self.sample_rate
        return Stats(seconds, self._busy, self._ttfa, self.source.nbytes, tuple(self._done))

    def _chunks(self) -> Iterator[Floats]:
        """Chunks of all sentences and the pauses between them, none of them empty."""
        for number, job in enumerate(self.jobs):
            if number:
                yield np.zeros(round(PAUSE * self.sample_rate), np.float32)
            yield from (chunk for chunk in self._sentence(job) if len(chunk))

    def _sentence(self, job: Job) -> Iterator[Floats]:
        """Chunks of one sentence, growing from FIRST_CHUNK to LAST_CHUNK."""
        voice = self.bundle.voice
        codec = CodecStream(voice)
        generation = Generation(self.source, job.utterance)
        rate = self.sample_rate / codec.spec.hop
        size, largest = math.ceil(FIRST_CHUNK * rate), math.ceil(LAST_CHUNK * rate)
        codes: list[int] = []
        for token in generation:
            codes.append(token - voice.prompt.code_offset)
            if len(codes) == size:
                yield codec.decode(codes)
                codes, size = [], min(2 * size, largest)
        tail = codec.finish(codes)
        self._done.append(_sentence_stats(job, generation, voice.prompt.code_offset))
        yield tail


def _sentence_stats(job: Job, generation: Generation, offset: int) -> SentenceStats:
    """Figures of one finished sentence."""
    return SentenceStats(
        read=job.sentence.read,
        seed=job.utterance.seed,
        text_tokens=len(job.sentence.ids),
        prefix_tokens=len(job.utterance.prefix),
        codes=tuple(token - offset for token in generation.tokens),
        stopped=generation.stopped,
        prefill_seconds=generation.prefill_seconds,
        step_seconds=tuple(generation.step_seconds),
    )
