"""A tiny voice with random weights: every part of a real one, small enough to be exported within seconds."""

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sottovoce.models.codec import Codec, CodecConfig
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder

CODEC = CodecConfig(
    hop=160,
    frame=40,
    fft=160,
    mels=8,
    levels=(4, 4, 3),
    encoder_frame_width=8,
    encoder_width=8,
    encoder_layers=1,
    decoder_width=8,
    decoder_layers=2,
    decoder_frame_width=8,
    decoder_frame_layers=2,
    delay=320,
)
CODES = 48
CHARACTERS = string.ascii_lowercase + " ,.?'"
TEXT_OFFSET = CODES + 1
STOP = CODES
"""Ids: 0..47 codes, 48 stop, then characters, then three marks of the layout."""

MARKS = (TEXT_OFFSET + len(CHARACTERS), TEXT_OFFSET + len(CHARACTERS) + 1, TEXT_OFFSET + len(CHARACTERS) + 2)


def hf_config(family: str = "qwen2", **changes: Any) -> dict[str, Any]:
    """The `config.json` of a two-layer decoder, as Hugging Face writes it."""
    config = {
        "model_type": family,
        "vocab_size": MARKS[-1] + 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    return {**config, **changes}


def voice_section(**changes: Any) -> dict[str, Any]:
    """The `sottovoce` section of the tiny voice's config."""
    start, middle, end = MARKS
    section = {
        "schema": 1,
        "codec": "codec",
        "prompt": {
            "layout": [start, "{prompt_text}", "{text}", middle, "{prompt_codes}", end],
            "code_offset": 0,
            "code_count": CODES,
            "stop": [STOP],
            "max_text_tokens": 60,
            "max_prompt_codes": 40,
        },
        "text": {"kind": "characters", "file": "text.json"},
        "sampling": {"temperature": 0.8, "top_k": 20, "min_ratio": 0.2, "max_ratio": 1.0, "max_extra": 10},
        "window": None,
        "history": [],
        "max_new_tokens": 90,
        "prefix": 130,
    }
    return {**section, **changes}


def save_decoder(folder: Path, hf: dict[str, Any], seed: int = 0) -> None:
    """Write a bare HF folder with random weights."""
    from sottovoce.models.checkpoint import save_weights

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    decoder = Decoder(DecoderConfig.from_hf(hf))
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    (folder / "config.json").write_text(json.dumps(hf))
    save_weights(decoder, folder)


def tiny_codec(seed: int = 0) -> Codec:
    """A codec with random weights."""
    torch.manual_seed(seed)
    return Codec(CODEC).eval()


def save_voice(folder: Path, family: str = "qwen2", hf: dict[str, Any] | None = None, **section: Any) -> Path:
    """Write a whole voice folder: decoder, codec, characters and the preset prompts `ada` and `bob`; returns it."""
    save_decoder(folder, {**hf_config(family, **(hf or {})), "sottovoce": voice_section(**section)})
    tiny_codec().save(folder / "codec")
    symbols = {c: TEXT_OFFSET + i for i, c in enumerate(CHARACTERS)}
    (folder / "text.json").write_text(json.dumps({"kind": "characters", "symbols": symbols}))
    (folder / "prompts").mkdir()
    for seed, name in enumerate(("ada", "bob")):
        codes = torch.randint(0, CODES, (20,), generator=torch.Generator().manual_seed(seed)).tolist()
        prompt = {"codes": codes, "transcript": f"i am {name}", "licence": "CC0", "consent": "synthetic"}
        (folder / "prompts" / f"{name}.json").write_text(json.dumps(prompt))
    return folder


def save_patch_voice(
    folder: Path,
    patch: int = 4,
    hf: dict[str, Any] | None = None,
    nets: dict[str, Any] | None = None,
    scale: float = 0.15,
    **section: Any,
) -> Path:
    """The same voice speaking in patches, its nets random too, of deviation `scale`; `nets` go to `PatchConfig.of`."""
    from sottovoce.models.patch.config import PatchConfig
    from sottovoce.models.patch.decoder import PatchDecoder
    from sottovoce.models.voice import Voice
    from sottovoce.models.voice import save_voice as save

    plain = Voice.open(save_voice(folder, hf=hf, **section))
    spec = plain.complete()
    config = PatchConfig.of(plain.checkpoint.config, patch, **(nets or {}))
    decoder = PatchDecoder(plain.checkpoint.load(), config, spec.prompt)
    with torch.no_grad():
        for net in (decoder.compressor, decoder.extractor):
            for parameter in net.parameters():
                if parameter.dim() > 1 or parameter is decoder.extractor.start:
                    parameter.normal_(0, scale)
    save(decoder, dict(plain.checkpoint.hf), replace(spec, patch=config), folder)
    return folder
