"""Checkpoint → `decoder.onnx` + `decoder.onnx.data`, with the parts of the manifest that describe them.

`plan_decoder` answers the same questions as `export_decoder` without reading a weight or writing a file. Neither
verifies (`parity.py` does) nor knows about bundles, codecs or text.
"""

from dataclasses import dataclass
from pathlib import Path

from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import CacheFormat, CacheSpec, Flavour, HeadSpec, IoSpec, Manifest, WeightFormat
from sottovoce.runtime.manifest import WeightSpec

GRAPH = "decoder.onnx"
DATA = "decoder.onnx.data"


@dataclass(frozen=True)
class DecoderOptions:
    """What is asked of an export.

    `prefix` P ≥ 1 and `window` W ≥ 2 in slots; `max_position` is how many positions the graph can rotate (at least
    P + W; the highest position ever fed is one less); `head_ranges` half-open ranges of token ids to keep logits of, in
    order, None for all.
    """

    weights: WeightFormat
    prefix: int
    window: int
    max_position: int
    head_ranges: tuple[tuple[int, int], ...] | None = None
    cache: CacheFormat = "fp32"


@dataclass(frozen=True)
class DecoderParts:
    """The manifest's account of a decoder graph; `sizes` maps file name → bytes."""

    flavour: Flavour
    min_onnxruntime: str
    cache: CacheSpec
    io: IoSpec
    weights: WeightSpec
    head: HeadSpec
    max_position: int
    sizes: dict[str, int]

    @classmethod
    def of(cls, manifest: Manifest) -> "DecoderParts":
        """The parts a bundle's manifest records."""
        names = ("flavour", "min_onnxruntime", "cache", "io", "weights", "head", "max_position")
        sizes = {name: entry.size for name, entry in manifest.files.items() if name in (GRAPH, DATA)}
        return cls(**{name: getattr(manifest, name) for name in names}, sizes=sizes)


def plan_decoder(source: Checkpoint | Decoder, options: DecoderOptions) -> DecoderParts:
    """What `export_decoder` would write, sizes included (the graph's to within a few bytes), with nothing written.

    Raises OptionError where an option cannot be honoured for this decoder.
    """
    raise NotImplementedError


def export_decoder(source: Checkpoint | Decoder, options: DecoderOptions, folder: Path) -> DecoderParts:
    """Write `decoder.onnx` and `decoder.onnx.data` into an existing folder, one weight in memory at a time.

    Raises OptionError where an option cannot be honoured, VoiceError where a weight cannot be read, OutputError where a
    file cannot be written (the caller owns the folder and removes it).
    """
    raise NotImplementedError
