"""Voices that speak in patches on disk: written and read back, and each way in which one can be bad."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sottovoce.errors import VoiceError
from sottovoce.models.checkpoint import PATCH_WEIGHTS
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.voice import Voice, save_voice
from tests.models.patches import tiny_patches
from tests.models.shapes import CONFIGS
from tests.models.test_voice import SPEC
from tests.models.test_voice import write_voice as write_plain


def write_voice(folder: Path, patches: PatchDecoder | None = None) -> Path:
    """A whole voice folder whose decoder speaks in patches."""
    patches = patches or tiny_patches(prompt=SPEC.prompt)
    write_plain(folder)
    save_voice(patches, CONFIGS["qwen2_tied"], replace(SPEC, window=8, patch=patches.config), folder)
    return folder


@pytest.mark.parametrize("compressor", ["attention", "mean"])
def test_round_trip(tmp_path: Path, compressor) -> None:
    """What is read says what was written, in fp16."""
    patches = tiny_patches(6, compressor, "none", prompt=SPEC.prompt)
    voice = Voice.open(write_voice(tmp_path, patches))
    assert voice.complete().patch == patches.config and voice.complete().window == 8
    again = voice.patches().load()
    expected = patches.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name].half().float()) for name, value in again.state_dict().items())
    assert all(tensor.dtype == torch.float16 for tensor in load_file(tmp_path / PATCH_WEIGHTS).values())


def test_the_hash_follows_the_nets(tmp_path: Path) -> None:
    first = Voice.open(write_voice(tmp_path)).checkpoint.sha256()
    tensors = load_file(tmp_path / PATCH_WEIGHTS)
    tensors["extractor.start"][0] += 1
    save_file(tensors, tmp_path / PATCH_WEIGHTS)
    assert Voice.open(tmp_path).checkpoint.sha256() != first


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of the nets; None removes one (`__` stands for a dot)."""
    kept = load_file(folder / PATCH_WEIGHTS) | {key.replace("__", "."): value for key, value in tensors.items()}
    save_file({key: value for key, value in kept.items() if value is not None}, folder / PATCH_WEIGHTS)


def edit(folder: Path, **changes: object) -> None:
    """Change keys of the section's `patch`."""
    config = json.loads((folder / "config.json").read_text())
    config["sottovoce"]["patch"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


BAD = {
    "missing file": (lambda f: (f / PATCH_WEIGHTS).unlink(), r"patch\.safetensors is missing"),
    "missing tensor": (lambda f: change(f, extractor__start=None), "tensor extractor.start is missing"),
    "unexpected tensor": (lambda f: change(f, extra=torch.zeros(2)), "unexpected tensor extra"),
    "wrong shape": (lambda f: change(f, extractor__start=torch.zeros(3)), r"start is \[3\].*asks for \[64\]"),
    "wrong dtype": (lambda f: change(f, extractor__start=torch.zeros(64).double()), "F64"),
    "truncated": (lambda f: (f / PATCH_WEIGHTS).write_bytes(b"half"), "damaged"),
    "other config": (lambda f: edit(f, slots=5), r"slot\.weight is .*config\.json asks for"),
    "no patch": (lambda f: edit(f, patch=1), "patch 1: at least 2"),
    "no heads": (lambda f: edit(f, extractor_layers={"layers": 1}), "extractor_layers"),
    "unknown speaker": (lambda f: edit(f, speaker="ecapa"), "speaker: expected one of pooled, none"),
    "unknown key": (lambda f: edit(f, colour="red"), "unknown key 'colour'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_voice(tmp_path: Path, kind: str) -> None:
    spoil, says = BAD[kind]
    spoil(write_voice(tmp_path))
    with pytest.raises(VoiceError, match=says):
        Voice.open(tmp_path)


def test_a_voice_of_tokens_has_no_patches(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="does not speak in patches: sottovoce compress patch"):
        Voice.open(write_plain(tmp_path)).patches()


@pytest.mark.parametrize("decoder_only", [False, True])
def test_patches_are_refused_by_name(tmp_path: Path, decoder_only: bool) -> None:
    Voice.open(write_plain(tmp_path / "plain"), decoder_only).refuse_patches("no")
    with pytest.raises(VoiceError, match=r"made speaks in patches: this cannot be$"):
        Voice.open(write_voice(tmp_path / "made"), decoder_only).refuse_patches("this cannot be")


def test_how_far_float32_is_from_exact() -> None:
    """Where logits are large, torch alone is off by nearly the 1e-4 that `export.parity` allows a graph."""
    voice, random = Voice.open(Path("voices/reference-p4")), torch.Generator().manual_seed(0)
    text, codes = (
        torch.randint(low, high, (size,), generator=random) for low, high, size in ((4100, 4170, 150), (0, 4096, 900))
    )
    ids = torch.cat((torch.tensor([4096]), text, torch.tensor([4097]), codes[:99], torch.tensor([4098]), codes))[None]
    counts = torch.tensor([252]), torch.tensor([ids.shape[1]])
    with torch.no_grad():
        said, exact = (
            d.logits(d(ids, *counts)[0, 251:]).double()
            for d in (voice.patches().load().to(t) for t in (torch.float32, torch.float64))
        )
    assert 3e-5 < (said - exact).abs().max() < 1.5e-4
