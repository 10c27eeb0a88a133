"""Parameters of CosyVoice 2 and LLaSA-1B at half depth, beside the cuts of SPADE's authors (arXiv 2509.20802).

    python -m benchmarks.pruned_parameters

Counted layer by layer on the shapes of the language models, without weights: with the embeddings (tied to the head in
both) and without. The authors' percentages are of a base that they do not name: the one that they imply is printed.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.kv_table import SHAPES
from sottovoce.compress.layers import keep_layers
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.table import columns

LLASA_1B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 193_800,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B with speech tokens in its vocabulary; its rope scaling has no parameters."""

MODELS: dict[str, tuple[dict[str, Any], float]] = {
    "CosyVoice 2": (SHAPES["CosyVoice 2"].config, 39.7),
    "LLaSA-1B": (LLASA_1B, 23.5),
}
"""HF config, and the authors' cut in percent."""

HEADER = ("", "layers", "per layer, M", "embeddings, M", "whole, M", "half, M", "cut", "without embeddings", "paper")


@dataclass(frozen=True)
class Counted:
    """Parameters of each layer, of the embeddings, and of everything, at full depth and at half of it."""

    layers: tuple[int, ...]
    embeddings: int
    whole: int
    half: int

    @property
    def cut(self) -> float:
        """Percent saved."""
        return 100 * (self.whole - self.half) / self.whole

    @property
    def cut_without_embeddings(self) -> float:
        """Percent saved of everything but the embeddings."""
        return 100 * (self.whole - self.half) / (self.whole - self.embeddings)


def count(config: dict[str, Any]) -> Counted:
    """Parameters of the shape `config`, and of every other layer of it."""
    with torch.device("meta"):
        decoder = Decoder(DecoderConfig.from_hf(config))
    half = keep_layers(decoder, range(0, decoder.config.layers, 2))
    layers = tuple(size(layer) for layer in decoder.model.layers)
    return Counted(layers, size(decoder.model.embed_tokens), size(decoder), size(half))


def size(module: nn.Module) -> int:
    """Parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def line(name: str, found: Counted, paper: float) -> tuple[str, ...]:
    """A row of the table."""
    sizes = (found.layers[0], found.embeddings, found.whole, found.half)
    cuts = (found.cut, found.cut_without_embeddings, paper)
    return (name, str(len(found.layers)), *(f"{n / 1e6:.1f}" for n in sizes), *(f"−{cut:.1f} %" for cut in cuts))


def implied(name: str, found: Counted, paper: float) -> str:
    """The base that the authors' percentage is of, where they remove the same layers."""
    base = (found.whole - found.half) / (paper / 100)
    off = found.cut - paper
    return f"{name}: {off:+.1f} points from the paper, whose cut implies a base of {base / 1e6:.0f} M parameters"


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(argv)
    counted = {name: (count(config), paper) for name, (config, paper) in MODELS.items()}
    print(columns([HEADER, *(line(name, *each) for name, each in counted.items())], indent=""))
    for name, each in counted.items():
        print(implied(name, *each))
    return 0


if __name__ == "__main__":
    sys.exit(main())
