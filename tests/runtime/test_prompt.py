"""Presets, clips as prompts, and the prefix they become."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sottovoce.errors import BundleError, OptionError, PromptError, TextError
from sottovoce.runtime import codec
from sottovoce.runtime.manifest import Prompt
from sottovoce.runtime.prefix import build_prefix, text_room
from sottovoce.runtime.prompt import encode_clip, find_prompt, load_preset, preset_names, save_preset
from tests.runtime.fakes import HOP, PROMPT, RATE, FakeEncoder, fake_bundle, manifest, sound


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(codec, "open_session", lambda path, threads: FakeEncoder())
    return fake_bundle(tmp_path / "b")


def with_layout(bundle, *layout, **changes):
    """`bundle` with another prompt layout."""
    prompt = replace(PROMPT, layout=layout or PROMPT.layout, **changes)
    return replace(bundle, speaking=replace(bundle.voice, prompt=prompt))


def clip(tmp_path, codes):
    """A clip that the fake encoder hears as `codes`."""
    path = tmp_path / "ref.wav"
    soundfile.write(path, sound(codes), RATE, subtype="FLOAT")
    return path


def test_presets_by_name_or_the_first(bundle):
    assert preset_names(bundle) == ["ada"]
    assert find_prompt(bundle, None) == find_prompt(bundle, "ada") == Prompt((1, 2, 3), "", "CC0", "synthetic")
    worded = with_layout(bundle, "{prompt_text}", "{text}", "{prompt_codes}")
    assert find_prompt(worded, "ada", "some words").transcript == "some words"


def test_words_a_voice_has_no_use_for_are_refused(bundle):
    with pytest.raises(OptionError, match=r"does not use the words .* --prompt-text"):
        find_prompt(bundle, "ada", "some words")


def test_a_clip_becomes_codes(bundle, tmp_path):
    path = clip(tmp_path, [4, 5, 6, 7])
    assert find_prompt(bundle, str(path)).codes == (4, 5, 6, 7)


def test_no_such_prompt_lists_those_there_are(bundle):
    with pytest.raises(PromptError, match=r"'eve' is neither a file nor a prompt of this bundle \(ada\)"):
        find_prompt(bundle, "eve")


def test_a_bundle_without_presets_asks_for_a_clip(bundle):
    (bundle.folder / "prompts" / "ada.json").unlink()
    with pytest.raises(PromptError, match="give a clip"):
        find_prompt(bundle, None)
    assert find_prompt(with_layout(bundle, 60, "{text}"), None) == Prompt()


def test_clips_too_long_or_too_short(bundle, tmp_path):
    with pytest.raises(PromptError, match=r"1.30 s long, at most 1.20 s is taken"):
        encode_clip(bundle, clip(tmp_path, [1] * 13))
    assert len(encode_clip(bundle, clip(tmp_path, [1] * 12))) == 12
    soundfile.write(tmp_path / "click.wav", np.full(HOP - 1, 0.5), RATE)
    with pytest.raises(PromptError, match=r"click.wav lasts 0.099 s: .* up to 1.20 s"):
        encode_clip(bundle, tmp_path / "click.wav")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected an object"),
        ('{"codes": [1], "mood": 1}', "unknown key 'mood'"),
        ('{"codes": []}', "0 codes, between 1 and 12"),
        (json.dumps({"codes": [1] * 13}), "13 codes"),
        ('{"codes": [10]}', "between 0 and 9"),
        ('{"codes": [-1]}', "between 0 and 9"),
        ('{"codes": ["a"]}', "expected int"),
    ],
)
def test_damaged_presets(bundle, content, message):
    (bundle.folder / "prompts" / "eve.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        load_preset(bundle, "eve")


def test_saving_keeps_the_bundle_sound(bundle):
    before = (bundle.folder / "manifest.json").read_bytes()
    prompt = Prompt((7, 8), "hello", "CC0", "mine")
    path = save_preset(bundle, "eve", prompt)
    assert load_preset(bundle, "eve") == prompt
    assert preset_names(bundle) == ["ada", "eve"]
    assert (bundle.folder / "manifest.json").read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["ada.json", "eve.json"]
    with pytest.raises(OptionError, match=r"exists: .*--force"):
        save_preset(bundle, "eve", Prompt((1,)))
    save_preset(bundle, "eve", Prompt((1,)), force=True)
    assert load_preset(bundle, "eve").codes == (1,)


@pytest.mark.parametrize("name", ["../eve", "", "a b", ".hidden", "x" * 65, "eve.json"])
def test_names_that_are_not_plain(bundle, name):
    with pytest.raises(OptionError, match="letters, digits"):
        save_preset(bundle, name, Prompt((1,)))


def test_presets_of_the_bundle_cannot_be_replaced(bundle):
    with pytest.raises(OptionError, match="came with the bundle"):
        save_preset(bundle, "ada", Prompt((1,)), force=True)


def test_the_layout_is_filled_in(bundle):
    assert build_prefix(bundle, (20, 21), Prompt((4, 5))) == (60, 20, 21, 61, 4, 5, 62)
    shifted = with_layout(bundle, "{prompt_text}", 9, "{text}", "{prompt_codes}", code_offset=100)
    ids = build_prefix(shifted, (20,), Prompt((4,), "ab"))
    assert ids == (20, 21, 48, 9, 20, 104)


def test_the_layout_needs_its_fields(bundle):
    with pytest.raises(PromptError, match="--prompt"):
        build_prefix(bundle, (20,), Prompt())
    with pytest.raises(PromptError, match="--prompt-text"):
        build_prefix(with_layout(bundle, "{prompt_text}", "{text}"), (20,), Prompt((1,)))


def test_room_for_text(bundle, tmp_path):
    assert text_room(bundle, Prompt((1,) * 3)) == PROMPT.max_text_tokens
    tight = fake_bundle(tmp_path / "tight", manifest(prefix=18))
    assert text_room(tight, Prompt((1,) * 3)) == 12
    with pytest.raises(
        PromptError, match=r"needs 25 prefix .* holds 18: cut .* at most 1.40 s, less 0.10 s for each .*--prefix 45"
    ):
        text_room(tight, Prompt((1,) * 22))


def test_one_word_too_long_for_the_prefix_is_an_error(bundle):
    with pytest.raises(TextError, match="larger --prefix"):
        bundle.voice.frontend.sentences("a" * 40, text_room(bundle, Prompt((1,))))


def test_the_voice_may_choose_who_speaks(bundle):
    save_preset(bundle, "eve", Prompt((9,)))
    chosen = replace(bundle.speaking, prompt=replace(PROMPT, default="eve"))
    assert find_prompt(replace(bundle, speaking=chosen), None).codes == (9,)
