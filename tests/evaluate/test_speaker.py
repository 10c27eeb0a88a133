"""The speaker classifier: right where speakers differ, chance where they do not, and good enough on real clips."""

import shutil

import numpy as np
import pytest

from sottovoce.compress.evaluate import reference
from sottovoce.compress.evaluate.reference import VOICES, Flite, classifier_of
from sottovoce.compress.evaluate.speaker import ACCURACY, describe, train
from sottovoce.errors import OptionError

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")


def test_speakers_that_differ_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    means = {"a": 0.0, "b": 1.0, "c": -1.0}
    who = [name for name in means for _ in range(20)]
    vectors = np.stack([rng.normal(means[name], 0.3, 26) for name in who])
    found = train(vectors, who, list(range(20)) * 3)
    assert (found.names, found.accuracy, found.clips) == (("a", "b", "c"), 1.0, 60)


def test_accuracy_is_of_clips_that_were_not_trained_on() -> None:
    """Vectors that say nothing: a classifier judged on its own training clips would look better than chance."""
    rng = np.random.default_rng(0)
    who = ["a", "b"] * 40
    assert train(rng.normal(size=(80, 26)), who, list(range(80))).accuracy < 0.65


def test_speakers_who_take_turns_are_told_apart() -> None:
    """Every fifth clip is one speaker's: he must not be the one whom a fold has never heard."""
    rng = np.random.default_rng(0)
    who = [name for _ in range(12) for name in "abcde"]
    vectors = np.stack([rng.normal(3 * "abcde".index(name), 0.3, 26) for name in who])
    assert train(vectors, who, list(range(60))).accuracy == 1.0


def test_a_speaker_that_a_fold_lacks_is_no_error() -> None:
    who = ["a"] * 9 + ["b"]
    assert train(np.eye(26)[:10], who, list(range(10))).names == ("a", "b")


@needs_flite
def test_flite_voices_are_told_apart(monkeypatch):
    """Eight sentences are enough to train on; others by the same speakers are named right, and silence is nobody."""
    monkeypatch.setattr(reference, "SENTENCES", reference.SENTENCES[:8])
    flite = Flite()
    found = classifier_of(flite)
    assert found is not None and found.names == VOICES
    assert found.accuracy >= ACCURACY
    for speaker in VOICES:
        audio = flite.render("A sentence that was not among them.", speaker)
        assert found.name(0.1 * audio) == speaker
    assert found.name(np.zeros(16000, np.float32)) is None and describe(np.zeros(9, np.float32)) is None
    assert flite.render("Hello.", "nobody") is None


def test_a_flite_without_a_voice_does_not_lend_it_another(tmp_path, monkeypatch):
    (tmp_path / "flite").write_text("#!/bin/sh\n[ $1 = -voice ] && { echo no >&2; exit 3; }; echo 'kal slt flite-9'\n")
    (tmp_path / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    flite = Flite()
    assert (flite.voices, flite.identity, flite.render("Hello.", "rms")) == (("slt",), "flite-9", None)
    with pytest.raises(OptionError, match=r"cannot say 'Hello\.': no"):
        flite.render("Hello.", "slt")
