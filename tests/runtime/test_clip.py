"""Reference clips: what is accepted, and one clear line for what is not."""

import sys

import numpy as np
import pytest
import soundfile

from sottovoce.errors import MissingExtraError, PromptError
from sottovoce.runtime.clip import levelled, read_clip

RATE = 16000


def tone(path, rate=RATE, seconds=0.5, channels=1, level=0.5):
    """Write a 200 Hz tone."""
    t = np.arange(round(rate * seconds)) / rate
    wave = level * np.sin(2 * np.pi * 200 * t)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "two.wav"
    soundfile.write(path, np.array([[0.5, -0.25]] * 100), RATE, subtype="FLOAT")
    audio = read_clip(path, RATE, RATE)
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio, 0.125)


def test_clips_of_any_level_are_heard_alike():
    speech = np.pad(0.3 * np.sin(np.arange(8000) / 5), 4000).astype(np.float32)
    quiet = levelled(speech * 0.01, 0.08)
    np.testing.assert_allclose(quiet, levelled(speech, 0.08), atol=1e-6)
    assert np.sqrt(np.mean(quiet[4000:12000] ** 2)) == pytest.approx(0.08, rel=0.01)
    spike = np.zeros(1000, np.float32)
    spike[500] = 0.1
    assert np.abs(levelled(spike, 0.08)).max() == pytest.approx(0.08)
    assert np.abs(levelled(speech, 0.9)).max() <= 0.951
    assert levelled(speech, None) is speech


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_other_sample_rates_are_resampled(tmp_path, rate, kind):
    audio = read_clip(tone(tmp_path / f"clip.{kind}", rate, channels=2), RATE, RATE)
    wanted = read_clip(tone(tmp_path / "plain.wav"), RATE, RATE)
    assert abs(len(audio) - 8000) <= 1
    middle = slice(1000, 7000)
    assert np.abs(audio[middle] - wanted[middle]).max() < 0.01


def test_resampling_needs_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sottovoce\[audio\]'"):
        read_clip(tone(tmp_path / "clip.wav", 8000), RATE, RATE)
    assert len(read_clip(tone(tmp_path / "same.wav"), RATE, RATE)) == 8000


def test_too_long_says_how_long_is_allowed(tmp_path):
    path = tone(tmp_path / "long.wav", 48000, 2.0)
    with pytest.raises(PromptError, match=r"long.wav is 2.00 s long, at most 1.50 s is taken"):
        read_clip(path, RATE, RATE * 3 // 2)
    assert len(read_clip(path, RATE, RATE * 2)) == 2 * RATE


def test_silent(tmp_path):
    for name, level in (("zeros", 0.0), ("hiss", 0.0005)):
        with pytest.raises(PromptError, match=f"{name}.wav is silent: a prompt needs clear speech, up to 1.00 s"):
            read_clip(tone(tmp_path / f"{name}.wav", level=level), RATE, RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(PromptError, match="is silent"):
        read_clip(tmp_path / "empty.wav", RATE, RATE)


def test_not_audio(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("these are words")
    with pytest.raises(PromptError, match=r"notes.wav is not audio"):
        read_clip(path, RATE, RATE)
    path.rename(tmp_path / "notes.raw")
    with pytest.raises(PromptError, match=r"notes.raw is not audio"):
        read_clip(tmp_path / "notes.raw", RATE, RATE)
    with pytest.raises(PromptError, match="no such file"):
        read_clip(tmp_path / "absent.wav", RATE, RATE)
    with pytest.raises(PromptError, match="no such file"):
        read_clip(tmp_path, RATE, RATE)


def test_not_numbers(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.5, np.nan]), RATE, subtype="FLOAT")
    with pytest.raises(PromptError, match="not numbers"):
        read_clip(tmp_path / "nan.wav", RATE, RATE)
