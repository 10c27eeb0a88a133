"""Voice folders: written and read back, and each way in which one can be incomplete."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sottovoce.errors import VoiceError
from sottovoce.models.voice import Voice, VoiceSpec, save_voice
from sottovoce.runtime.manifest import Prompt, PromptSpec, SamplingSpec, TextSpec
from tests.models.shapes import CONFIGS, tiny_decoder

SPEC = VoiceSpec(
    codec="codec",
    prompt=PromptSpec((80, "{prompt_codes}", "{text}", 81), 0, 80, (82,), 40, 30),
    text=TextSpec("characters", "text.json"),
    max_new_tokens=100,
    prefix=64,
    sampling=SamplingSpec(temperature=0.8, top_k=20),
    window=32,
)
PROMPT = {"codes": [1, 2, 3], "transcript": "hello", "licence": "CC0", "consent": "synthetic"}


def write_voice(folder: Path, spec: VoiceSpec = SPEC, name: str = "qwen2_tied") -> Path:
    """A whole voice folder; the codec's files are placeholders, `Voice` does not read them."""
    save_voice(tiny_decoder(name), CONFIGS[name], spec, folder)
    for name in ("codec/config.json", "codec/model.safetensors", "text.json", "prompts/ann.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(PROMPT))
    return folder


def test_round_trip(tmp_path: Path) -> None:
    voice = Voice.open(write_voice(tmp_path / "voice"))
    assert voice.spec == SPEC
    assert voice.prompts() == {"ann": Prompt((1, 2, 3), "hello", "CC0", "synthetic")}
    assert voice.codec_folder == tmp_path / "voice" / "codec"
    expected = tiny_decoder("qwen2_tied").head.half().float()
    assert torch.equal(voice.checkpoint.load().head, expected)


def test_learned_positions_bound_a_voice(tmp_path: Path) -> None:
    for name, longest in (("qwen2_tied", 449), ("gpt2_tied", 448)):
        Voice.open(write_voice(tmp_path / name, replace(SPEC, max_new_tokens=longest), name))
    with pytest.raises(VoiceError, match="prefix 64 and max_new_tokens 449 pass the 512 positions"):
        Voice.open(write_voice(tmp_path / "gpt2_tied", replace(SPEC, max_new_tokens=449), "gpt2_tied"))


def test_bare_folder_is_a_decoder_only(tmp_path: Path) -> None:
    write_voice(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen2_tied"]))
    with pytest.raises(VoiceError, match="--decoder-only"):
        Voice.open(tmp_path)
    voice = Voice.open(tmp_path, decoder_only=True)
    with pytest.raises(VoiceError, match="decoder only"):
        _ = voice.codec_folder


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of the section; None removes one."""
    config = json.loads((folder / "config.json").read_text())
    section = {k: v for k, v in (config["sottovoce"] | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config | {"sottovoce": section}))


def prompt(**changes: Any) -> Any:
    """The prompt layout with changes, as JSON."""
    return vars(replace(SPEC.prompt, **changes))


BAD = {
    "no codec": (lambda f: edit(f, codec=None), "codec is missing.*--decoder-only"),
    "no prompt": (lambda f: edit(f, prompt=None), "prompt is missing.*--decoder-only"),
    "no text": (lambda f: edit(f, text=None), "text is missing.*--decoder-only"),
    "codec file gone": (lambda f: (f / "codec/model.safetensors").unlink(), "model.safetensors is missing"),
    "codec outside": (lambda f: edit(f, codec="../codec"), "outside the voice folder"),
    "newer": (lambda f: edit(f, schema=2), "newer"),
    "unknown key": (lambda f: edit(f, colour="red"), "colour"),
    "id outside": (lambda f: edit(f, prompt=prompt(stop=(97,))), "97 is outside the vocabulary"),
    "codes outside": (lambda f: edit(f, prompt=prompt(code_offset=60)), "outside the vocabulary"),
    "unknown field": (lambda f: edit(f, prompt=prompt(layout=("{speaker}",))), "speaker"),
    "no window": (lambda f: edit(f, window=1), "window at least 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_voice(tmp_path: Path, kind: str) -> None:
    spoil, says = BAD[kind]
    spoil(write_voice(tmp_path))
    with pytest.raises(VoiceError, match=says):
        Voice.open(tmp_path)


def test_bad_prompt_is_named(tmp_path: Path) -> None:
    write_voice(tmp_path)
    (tmp_path / "prompts/ann.json").write_text(json.dumps({"codes": "one"}))
    with pytest.raises(VoiceError, match=r"ann\.json"):
        Voice.open(tmp_path).prompts()
