"""`patch.safetensors`: the nets between tokens and patches, beside the weights of the decoder they surround.

Untrusted as the other weights are: names, shapes and dtypes are checked from the header before a weight is read.
"""

from pathlib import Path

import torch
from torch import nn

from sottovoce.models.checkpoint import PATCH_WEIGHTS, check_file, load_tensors, save_tensors
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.compressor import Compressor
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.extractor import Extractor
from sottovoce.runtime.manifest import PromptSpec


def check_patches(folder: Path, backbone: DecoderConfig, config: PatchConfig) -> None:
    """VoiceError unless the file in `folder` holds what `config` asks for around `backbone`; no weight is read."""
    with torch.device("meta"):
        nets = nn.ModuleDict({"compressor": Compressor(config, backbone), "extractor": Extractor(config, backbone)})
    check_file(folder / PATCH_WEIGHTS, {name: list(tensor.shape) for name, tensor in nets.state_dict().items()})


def load_patches(folder: Path, backbone: Decoder, config: PatchConfig, prompt: PromptSpec) -> PatchDecoder:
    """`backbone` with the nets of the file in `folder` around it, float32; VoiceError where it cannot be read."""
    decoder = PatchDecoder(backbone, config, prompt)
    weights = load_tensors(folder / PATCH_WEIGHTS)
    with torch.no_grad():
        for name, parameter in _nets(decoder).named_parameters():
            parameter.copy_(weights[name])
    return decoder


def save_patches(decoder: PatchDecoder, folder: Path) -> None:
    """Write the nets in fp16, whole or not at all; OutputError where the disk refuses."""
    save_tensors(_nets(decoder).state_dict(), folder / PATCH_WEIGHTS)


def _nets(decoder: PatchDecoder) -> nn.ModuleDict:
    """What is stored in this file."""
    return nn.ModuleDict({"compressor": decoder.compressor, "extractor": decoder.extractor})
