"""Checkpoints with random weights, and bundles of them: time and memory do not depend on their values."""

import json
from pathlib import Path
from typing import Any

import torch

from sottovoce.export.bundle_writer import file_entries
from sottovoce.export.decoder import DecoderParts
from sottovoce.models.checkpoint import save_weights
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import MANIFEST, SCHEMA, Manifest


def write_checkpoint(folder: Path, config: dict[str, Any]) -> int:
    """Write the HF folder that `config` (HF's keys) describes, fp16, on one thread; returns its number of weights."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    decoder = Decoder(DecoderConfig.from_hf(config))
    save_weights(decoder, folder)
    return sum(parameter.numel() for parameter in decoder.parameters())


def write_manifest(folder: Path, parts: DecoderParts) -> None:
    """Make a bundle of a decoder alone in `folder`, unverified: random weights have nothing to say."""
    manifest = Manifest(
        SCHEMA, file_entries(folder), "", {}, parts.flavour, parts.min_onnxruntime, parts.cache, parts.io,
        parts.weights, parts.head, parts.max_position, None, None, None, None, "failed", patch=parts.patch,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json())
