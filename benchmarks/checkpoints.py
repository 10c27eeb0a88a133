"""Checkpoints with random weights: time and memory do not depend on their values."""

import json
from pathlib import Path
from typing import Any

import torch

from sottovoce.models.checkpoint import save_weights
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder


def write_checkpoint(folder: Path, config: dict[str, Any]) -> int:
    """Write the HF folder that `config` (HF's keys) describes, fp16, on one thread; returns its number of weights."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    decoder = Decoder(DecoderConfig.from_hf(config))
    save_weights(decoder, folder)
    return sum(parameter.numel() for parameter in decoder.parameters())
