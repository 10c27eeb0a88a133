"""Tiny patch decoders with all weights random, and rows of tokens for them."""

from dataclasses import replace

import torch

from sottovoce.models.patch.config import Compressing, PatchConfig, Speaker
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.runtime.manifest import PromptSpec
from tests.models.shapes import randomise, tiny_decoder

PROMPT = PromptSpec((80, "{text}", 81, "{prompt_codes}", 82), 10, 50, (60, 83), 40, 30)
"""Ids: 0..9 text, 10..59 codes, 60 and 83 stop, 80..82 marks."""


def tiny_patches(
    patch: int = 4,
    compressor: Compressing = "attention",
    speaker: Speaker = "pooled",
    name: str = "qwen2_tied",
    prompt: PromptSpec = PROMPT,
) -> PatchDecoder:
    """A patch decoder around a decoder of the named config, float32, ready to infer; its extractor has two layers."""
    backbone = tiny_decoder(name)
    config = PatchConfig.of(backbone.config, patch, compressor, speaker)
    config = replace(config, extractor_layers=replace(config.extractor_layers, layers=2))
    patches = PatchDecoder(backbone, config, prompt)
    patches.requires_grad_(False)
    for net in (patches.compressor, patches.extractor):
        randomise(net, 1)
        for parameter in net.parameters():
            # So many layers on top of each other would otherwise make float32's roundings large.
            parameter.mul_(0.5 if parameter.dim() > 1 else 1)
    return patches.eval()


def row(text: int, clip: int, said: int, seed: int = 0, after: int = 1) -> tuple[list[int], int]:
    """Tokens of `text` words, a `clip`, `after` marks behind it and `said` codes; and how many of them are prefix."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 10, (text,), generator=generator).tolist()
    codes = torch.randint(10, 60, (clip + said,), generator=generator).tolist()
    prefix = [80, *words, 81, *codes[:clip], *([82] * after)]
    return [*prefix, *codes[clip:]], len(prefix)


def padded(*rows: tuple[list[int], int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids [B,T], prefix [B] and lengths [B] of rows, right-padded with a stop."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *([83] * (longest - len(ids)))] for ids, _ in rows])
    return ids, torch.tensor([p for _, p in rows]), torch.tensor([len(ids) for ids, _ in rows])
