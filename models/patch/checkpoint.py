"""`patch.safetensors`: the nets between tokens and patches, beside the weights of the decoder they surround.

Untrusted as the other weights are: names, shapes and dtypes are checked from the header before a weight is read.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sottovoce.models.checkpoint import (
    PATCH_WEIGHTS,
    Checkpoint,
    check_file,
    load_tensors,
    read_tensor,
    save_tensors,
)
from sottovoce.models.config import DecoderConfig
from sottovoce.models.patch.compressor import Compressor
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.extractor import Extractor
from sottovoce.runtime.manifest import PromptSpec


@dataclass(frozen=True)
class PatchCheckpoint:
    """A voice of patches on disk: the decoder's weights, and those of the nets in the same folder."""

    backbone: Checkpoint
    config: PatchConfig
    prompt: PromptSpec

    def read_net(self, name: str) -> Tensor:
        """A parameter of the nets as float32; the file is mapped for the length of this call only."""
        return read_tensor(self.backbone.folder / PATCH_WEIGHTS, name)

    def load(self) -> PatchDecoder:
        """The decoder with these weights, float32; VoiceError where they cannot be read."""
        decoder = PatchDecoder(self.backbone.load(), self.config, self.prompt)
        weights = load_tensors(self.backbone.folder / PATCH_WEIGHTS)
        with torch.no_grad():
            for name, parameter in _nets(decoder).named_parameters():
                parameter.copy_(weights[name])
        return decoder


def net_shapes(backbone: DecoderConfig, config: PatchConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the nets' parameters by name."""
    with torch.device("meta"):
        nets = nn.ModuleDict({"compressor": Compressor(config, backbone), "extractor": Extractor(config, backbone)})
    return {name: tuple(tensor.shape) for name, tensor in nets.state_dict().items()}


def check_patches(folder: Path, backbone: DecoderConfig, config: PatchConfig) -> None:
    """VoiceError unless the file in `folder` holds what `config` asks for around `backbone`; no weight is read."""
    shapes = net_shapes(backbone, config)
    check_file(folder / PATCH_WEIGHTS, {name: list(shape) for name, shape in shapes.items()})


def save_patches(decoder: PatchDecoder, folder: Path) -> None:
    """Write the nets in fp16, whole or not at all; OutputError where the disk refuses."""
    save_tensors(_nets(decoder).state_dict(), folder / PATCH_WEIGHTS)


def _nets(decoder: PatchDecoder) -> nn.ModuleDict:
    """What is stored in this file."""
    return nn.ModuleDict({"compressor": decoder.compressor, "extractor": decoder.extractor})
