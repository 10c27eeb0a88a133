"""Text to audio over fakes: chunks, pauses, seeds and figures."""

from dataclasses import replace

import numpy as np
import pytest

from sottovoce.errors import OptionError, TextError
from sottovoce.runtime.manifest import Prompt
from sottovoce.runtime.speak import PAUSE, speak
from tests.runtime.fakes import CODES, HOP, RATE, SAMPLING, STOP, fake_bundle, manifest, sound

PROMPT = Prompt((1, 2, 3))
LAYOUT_END = 62


@pytest.fixture
def bundle(tmp_path):
    """Speaks 25 codes after any prefix."""
    start = {}

    def choose(seen, position):
        if seen[-1] == LAYOUT_END:
            start["at"] = position
        return STOP if position - start["at"] >= 25 else position % CODES

    return fake_bundle(tmp_path / "b", manifest(window=5), choose)


def test_chunks_join_to_what_the_codes_say(bundle):
    speech = speak(bundle, "hello there", PROMPT)
    chunks = list(speech)
    (sentence,) = speech.stats().sentences
    assert len(sentence.codes) == 25
    np.testing.assert_allclose(np.concatenate(chunks), sound(sentence.codes), rtol=1e-6)
    assert len(chunks) > 2
    assert len(chunks[0]) < len(chunks[1])
    assert max(map(len, chunks)) <= RATE + 2 * HOP


def test_whole_is_the_chunks_joined(bundle):
    pieces = np.concatenate(list(speak(bundle, "hello there", PROMPT)))
    np.testing.assert_array_equal(speak(bundle, "hello there", PROMPT).whole(), pieces)


def test_sentences_have_even_pauses_and_one_speaker(bundle):
    speech = speak(bundle, "one two. three four. five.", PROMPT, seed=2**64 - 2)
    audio = speech.whole()
    stats = speech.stats()
    assert [s.read for s in stats.sentences] == ["one two.", "three four.", "five."]
    assert [s.seed for s in stats.sentences] == [2**64 - 2, 2**64 - 1, 0]
    pause = round(PAUSE * RATE)
    said = [sound(s.codes) for s in stats.sentences]
    silence = np.zeros(pause, np.float32)
    np.testing.assert_allclose(audio, np.concatenate([said[0], silence, said[1], silence, said[2]]), rtol=1e-6)


def test_figures(bundle):
    speech = speak(bundle, "hello there", PROMPT)
    assert (speech.stats().ttfa_seconds, speech.stats().rtf) == (None, None)
    next(iter(speech))
    first = speech.stats()
    assert 0 < first.ttfa_seconds == first.busy_seconds
    speech = speak(bundle, "hello there", PROMPT)
    speech.whole()
    stats = speech.stats()
    (sentence,) = stats.sentences
    assert stats.audio_seconds == 25 * HOP / RATE
    assert stats.rtf == stats.busy_seconds / stats.audio_seconds
    assert stats.ttfa_seconds < stats.busy_seconds
    assert stats.cache_bytes == bundle.manifest.cache.bytes
    assert sentence.stopped == "stop token"
    assert len(sentence.step_seconds) == 25
    assert sentence.prefix_tokens == sentence.text_tokens + 6


def test_length_is_bounded_by_that_of_the_text(bundle):
    short = replace(SAMPLING, max_ratio=0.5, max_extra=2)
    speech = speak(bundle, "hello", PROMPT, sampling=short)
    speech.whole()
    (sentence,) = speech.stats().sentences
    assert (len(sentence.codes), sentence.stopped) == (int(0.5 * sentence.text_tokens) + 2, "max length")
    long = replace(SAMPLING, min_ratio=6.0, max_ratio=6.0, max_extra=0)
    speech = speak(bundle, "hello", PROMPT, sampling=long)
    speech.whole()
    assert len(speech.stats().sentences[0].codes) == 6 * speech.stats().sentences[0].text_tokens


@pytest.mark.parametrize(("min_ratio", "most"), [(0.0, 7), (6.0, 7), (0.0, None)])
def test_no_sentence_is_longer_than_the_voices_longest(tmp_path, min_ratio, most):
    spec = replace(manifest(), max_new_tokens=most)
    bundle = fake_bundle(tmp_path / "b", spec)
    speech = speak(bundle, "hello", PROMPT, sampling=replace(SAMPLING, min_ratio=min_ratio, max_ratio=6.0, max_extra=0))
    speech.whole()
    (sentence,) = speech.stats().sentences
    assert (len(sentence.codes), sentence.stopped) == (most or 6 * sentence.text_tokens, "max length")


def test_a_sentence_that_stops_at_once_is_silent(tmp_path):
    bundle = fake_bundle(tmp_path / "b", choose=lambda seen, position: STOP)
    speech = speak(bundle, "hello", PROMPT)
    assert len(speech.whole()) == 0
    assert (speech.stats().ttfa_seconds, speech.stats().rtf) == (None, None)


def test_bad_requests_fail_before_any_audio(bundle):
    with pytest.raises(TextError):
        speak(bundle, "  ", PROMPT)
    with pytest.raises(OptionError, match="--seed -1"):
        speak(bundle, "hello", PROMPT, seed=-1)
    with pytest.raises(OptionError, match="top_p"):
        speak(bundle, "hello", PROMPT, sampling=replace(SAMPLING, top_p=2.0))
    with pytest.raises(OptionError, match="--prefill-chunk"):
        speak(bundle, "hello", PROMPT, prefill_chunk=0)
