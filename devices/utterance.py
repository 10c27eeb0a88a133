"""One measured utterance: where its time goes, and how much of the cache it touched."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from sottovoce.devices.graphs import Graphs
from sottovoce.devices.memory import Mappings, read_mappings, read_memory
from sottovoce.devices.readings import Utterance
from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.cache import Cache
from sottovoce.runtime.coreml import InplaceCache
from sottovoce.runtime.decode import PREFILL_CHUNK, TokenSource, open_stream
from sottovoce.runtime.patch_decode import PatchSource
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import SentenceStats, speak
from sottovoce.runtime.utterance import Source

DECODER_STEPS = 100
"""Steps that stand for an utterance of a bundle that cannot speak."""

PAGE = 4096
"""Bytes that a system gives at least."""


class Speaker:
    """Says one text again and again on an open bundle, by its first speaker."""

    def __init__(self, bundle: Bundle, graphs: Graphs, text: str, temperature: float | None) -> None:
        """Say `text` at `temperature` (None: the voice's own)."""
        self.bundle, self.graphs, self.text = bundle, graphs, text
        self.temperature = temperature
        self.cache_touched = 0
        self.held: Mappings | None = None
        """The process's memory when the last utterance ended, its caches still there."""
        self._decoder = Path(bundle.manifest.decoder).stem

    def utter(self, seed: int) -> Utterance:
        """One utterance; by a decoder alone DECODER_STEPS greedy steps."""
        self.graphs.forget_runs()
        return self._steps(seed) if self.bundle.speaking is None else self._speak(seed)

    def _speak(self, seed: int) -> Utterance:
        """An utterance that is heard."""
        bundle, sampling = self.bundle, self.bundle.voice.sampling
        if self.temperature is not None:
            sampling = replace(sampling, temperature=self.temperature)
        speech = speak(bundle, self.text, find_prompt(bundle, None), seed=seed, sampling=sampling)
        before = speech.stats().busy_seconds
        for _ in speech:
            pass
        stats = speech.stats()
        steps, draws = self._split(stats.sentences)
        self._look(touched(speech.source))
        return Utterance(
            busy=stats.busy_seconds,
            ttfa=stats.ttfa_seconds,
            audio=stats.audio_seconds,
            text=before,
            prefill=tuple(sentence.prefill_seconds for sentence in stats.sentences),
            steps=steps,
            sampling=draws,
            codec=self.graphs.runs("codec_decoder"),
            runs=sum(len(self.graphs.runs(name)) for name in self.graphs.sessions),
            codes=tuple(code for sentence in stats.sentences for code in sentence.codes),
            resident=_resident(),
        )

    def _split(self, sentences: tuple[SentenceStats, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Seconds of each step of the decoder, and of the draw after it; () where the draws cannot be told apart."""
        taken = [second for sentence in sentences for second in sentence.step_seconds]
        runs, found = self.graphs.runs(self._decoder), list[float]()
        for sentence in sentences:
            prefills = math.ceil(sentence.prefix_tokens / PREFILL_CHUNK)
            if self.bundle.prefill is not None:
                prefills = 0  # another graph reads prefixes
            elif len(sentences) == 1:  # a patch voice reads its prefix in pieces of other sizes
                prefills = len(runs) - len(taken)
            found += runs[prefills : prefills + len(sentence.step_seconds)]
            runs = runs[prefills + len(sentence.step_seconds) :]
        if len(found) != len(taken) or runs:
            return tuple(taken), ()
        return tuple(found), tuple(whole - run for whole, run in zip(taken, found, strict=True))

    def _steps(self, seed: int) -> Utterance:
        """A prefix of random ids that fills every conditioning slot, then greedy steps."""
        bundle = self.bundle
        start = time.perf_counter()
        stream = open_stream(bundle)
        prefix = np.random.default_rng(seed).choice(bundle.token_ids, stream.cache.prefix)
        logits = stream.prefill([int(token) for token in prefix])
        ttfa = time.perf_counter() - start
        seconds, tokens = [], []
        for _ in range(min(DECODER_STEPS, stream.max_position - stream.cache.prefix)):
            tokens.append(int(bundle.token_ids[int(np.argmax(logits))]))
            before = time.perf_counter()
            logits = stream.step(tokens[-1])
            seconds.append(time.perf_counter() - before)
        busy, runs = time.perf_counter() - start, len(self.graphs.runs(self._decoder))
        self._look(touched_bytes(stream.cache))
        steps = tuple(seconds)
        return Utterance(busy, ttfa, None, 0.0, (ttfa,), steps, (), (), runs, tuple(tokens), _resident())

    def _look(self, cache: int) -> None:
        """Note what is held, `cache` bytes of caches among it."""
        self.cache_touched = max(self.cache_touched, cache)
        self.held = read_mappings(self.graphs.folder)


def touched(source: Source) -> int:
    """Bytes of the caches of `source` that were written to; all where it is not known which."""
    if isinstance(source, TokenSource):
        return touched_bytes(source.stream.cache)
    if isinstance(source, PatchSource):
        return touched_bytes(source.cache) + source.nbytes - source.cache.nbytes
    return source.nbytes


def touched_bytes(cache: Cache | InplaceCache) -> int:
    """Bytes of the pages of a cache's buffers that hold a slot which was written.

    Where another graph reads prefixes, it writes whole buffers, so that all of them count; so they do where Core ML
    keeps them.
    """
    if isinstance(cache, InplaceCache) or cache.written is not cache.buffers:
        return cache.nbytes
    buffers = cache.buffers
    slots = np.zeros(buffers.shape[3], bool)
    slots[: cache.used] = True
    slots[cache.reach - 1] |= cache.generated > 0
    width = buffers.shape[4] * buffers.itemsize
    rows = buffers.nbytes // (len(slots) * width)
    starts = (np.arange(rows)[:, None] * len(slots) + np.flatnonzero(slots)) * width + buffers.ctypes.data % PAGE
    pages = np.union1d(starts // PAGE, (starts + width - 1) // PAGE)
    return len(pages) * PAGE


def _resident() -> int:
    """Bytes this process holds now."""
    memory = read_memory()
    return memory.resident + memory.swapped
