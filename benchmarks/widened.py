"""The reference voice in the shape of Qwen2-0.5B: it says the same, and is as large as a voice of that size.

    python -m benchmarks.widened VOICE FOLDER

Every matrix is padded with zeros, norms are told of the wider mean, and the layers that are added hand their input on:
where quality decides (`export --fit`), random weights have nothing to say.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shape05b import CONFIG
from sottovoce.models.checkpoint import save_weights
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.voice import Voice

SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
BELONGINGS = ("codec", "prompts", "text.json", "lexicon.txt")


def write_widened(source: Path, folder: Path) -> None:
    """Write the voice `source` to `folder` in that shape, fp16; head_dim and KV heads are the shape's already."""
    torch.set_num_threads(1)
    voice = Voice.open(source)
    small = voice.checkpoint.load()
    share = small.config.hidden_size / int(CONFIG["hidden_size"])  # type: ignore[call-overload]
    hf = voice.checkpoint.hf | {key: CONFIG[key] for key in SHAPE}
    hf["rms_norm_eps"] = small.config.norm_eps * share
    wide = Decoder(DecoderConfig.from_hf(hf))
    assert (wide.config.head_dim, wide.config.kv_heads) == (small.config.head_dim, small.config.kv_heads)
    _fill(wide, small, share)
    folder.mkdir(parents=True)
    for name in BELONGINGS:
        copy: Any = shutil.copytree if (source / name).is_dir() else shutil.copyfile
        copy(source / name, folder / name)
    save_weights(wide, folder)
    (folder / "config.json").write_text(json.dumps(hf))


@torch.no_grad()
def _fill(wide: Decoder, small: Decoder, share: float) -> None:
    """Make `wide` say what `small` says, of whose width it has 1 / `share`."""
    before, heads = dict(small.named_parameters()), _columns(wide.config, small.config)
    for name, parameter in wide.named_parameters():
        if name not in before:  # a layer that is added: random, but it adds nothing
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            continue
        value = before[name] * share**0.5 if "norm" in name else before[name]
        rows = heads if ".q_proj." in name else torch.arange(len(value))
        parameter.zero_()
        if value.dim() == 1:
            parameter[rows] = value
        else:
            columns = heads if ".o_proj." in name else torch.arange(value.shape[1])
            parameter[rows[:, None], columns] = value


def _columns(wide: DecoderConfig, small: DecoderConfig) -> Tensor:
    """Where the small decoder's queries stand among the wide one's: each head beside those that share its KV head."""
    heads = torch.arange(small.heads)
    group = small.heads // small.kv_heads
    places = heads // group * (wide.heads // wide.kv_heads) + heads % group
    return (places[:, None] * small.head_dim + torch.arange(small.head_dim)).flatten()


if __name__ == "__main__":
    write_widened(Path(sys.argv[1]), Path(sys.argv[2]))
