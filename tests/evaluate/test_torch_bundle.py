"""A voice that torch runs says what its fp32 bundle says, and likelihood is that of the same steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sottovoce.compress.evaluate.synthesise import open_subject
from sottovoce.compress.evaluate.torch_bundle import spoken_ranges
from sottovoce.errors import OptionError, PromptError
from sottovoce.export.head import ids_of, speech_ranges
from sottovoce.runtime.contract import token_ids
from sottovoce.runtime.manifest import HeadSpec, PromptSpec
from sottovoce.runtime.output import wav
from tests import tiny

TEXT = "hello there, this goes round the ring. and on."


@pytest.fixture(scope="module")
def windowed(tmp_path_factory) -> Path:
    """The tiny voice with the window and the prefix that the tiny bundle has."""
    return tiny.save_voice(tmp_path_factory.mktemp("voices") / "windowed", window=12, prefix=100)


def test_a_voice_says_what_its_bundle_says(windowed: Path, tiny_bundle: Path) -> None:
    voice, bundle = (open_subject(folder, ["bob"], threads=1) for folder in (windowed, tiny_bundle))
    audio, stats = voice.say(TEXT, "bob", 7)
    wanted, expected = bundle.say(TEXT, "bob", 7)
    codes = [sentence.codes for sentence in stats.sentences]
    assert codes == [sentence.codes for sentence in expected.sentences]
    assert max(map(len, codes)) > 24  # the ring went round twice
    assert np.abs(audio - wanted).max() < 1e-3 * np.abs(wanted).max()
    assert voice.identity != bundle.identity


def test_a_patch_voice_says_what_its_bundle_says(patch_bundle: Path, tmp_path: Path) -> None:
    """In the sizes of the bundle, so that the ring goes round; the same prompts, lengths and stops."""
    voice = tiny.save_patch_voice(tmp_path / "voice", window=7, prefix=90)  # 30 slots fewer for the clip of 40
    torch_voice, bundle = (open_subject(folder, ["bob"], threads=1) for folder in (voice, patch_bundle))
    assert torch_voice.bundle.manifest.cache.groups[0] == bundle.bundle.manifest.cache.groups[0]
    assert torch_voice.bundle.manifest.max_position == bundle.bundle.manifest.max_position
    _, stats = torch_voice.say(TEXT, "bob", 7)
    _, expected = bundle.say(TEXT, "bob", 7)
    said = [(sentence.codes, sentence.stopped, len(sentence.step_seconds)) for sentence in stats.sentences]
    assert said == [(s.codes, s.stopped, len(s.step_seconds)) for s in expected.sentences]
    assert max(len(codes) for codes, _, _ in said) > 4 * 7


@pytest.mark.parametrize("stop", [(48,), (2, 60), (60, 2, 60), (12,)])
def test_logits_come_in_the_order_of_an_export(stop: tuple[int, ...]) -> None:
    prompt = PromptSpec(("{text}",), 10, 30, stop, 40, 30)
    ranges = spoken_ranges(prompt)
    assert token_ids(HeadSpec(ranges)).tolist() == ids_of(speech_ranges(prompt))


def test_speakers_are_presets_or_clips(windowed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    clip = tmp_path / "cyd.wav"
    clip.with_suffix(".txt").write_text("this is cyd\n")
    quiet = np.random.default_rng(0).normal(0, 0.003, 4000).astype(np.float32)  # far below the codec's level
    clip.write_bytes(wav(quiet, 16000))
    prompts = [open_subject(folder, ["ada", str(clip)], threads=1).prompts for folder in (windowed, tiny_bundle)]
    assert list(prompts[0]) == list(prompts[1]) == ["ada", "cyd"]
    assert prompts[0] == prompts[1]
    assert prompts[0]["cyd"].transcript == "this is cyd"
    assert list(open_subject(windowed, [], threads=1).prompts) == ["ada", "bob"]
    with pytest.raises(PromptError, match="nobody"):
        open_subject(windowed, ["nobody"], threads=1)
    clip.with_suffix(".txt").unlink()
    with pytest.raises(PromptError, match=r"cyd.txt"):
        open_subject(windowed, [str(clip)], threads=1)
    click = tmp_path / "click.wav"
    click.write_bytes(wav(np.full(100, 0.5, np.float32), 16000))
    click.with_suffix(".txt").write_text("oh")
    with pytest.raises(PromptError, match=r"click.wav lasts 0.006 s"):
        open_subject(windowed, [str(click)], threads=1)
    with pytest.raises(OptionError, match="same name"):
        open_subject(windowed, [str(clip), str(tmp_path / "other" / "cyd.flac")], threads=1)


def test_identity_follows_the_weights(windowed: Path, tmp_path: Path) -> None:
    other = tiny.save_voice(tmp_path / "other", window=12, prefix=100)
    assert open_subject(other, ["ada"], 1).identity == open_subject(windowed, ["ada"], 1).identity
    torch.manual_seed(5)
    tiny.tiny_codec(seed=5).save(other / "codec")
    assert open_subject(other, ["ada"], 1).identity != open_subject(windowed, ["ada"], 1).identity
