"""A decoder as package or asset, and the tables that the host reads for it: embedding rows and rotary rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sottovoce.errors import OutputError
from sottovoce.export.coreml.convert import Compression, Traceable, check_compression
from sottovoce.export.coreml.kinds import COREML, Kind
from sottovoce.export.coreml.layout import DECODE, PREFILL, Layout
from sottovoce.export.coreml.modules import Head, NoHead, SlotPass, StatefulPass, Trunk
from sottovoce.export.coreml.patch_layout import COMPRESS, EXTRACT, PatchLayout
from sottovoce.export.coreml.patch_modules import CompressPass, ExtractPass, PatchDecodePass, Teller
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.rope import rotary_table

PACKAGE = COREML.decoder
EMBEDDING = "embedding.npy"
"""Rows [V, d] float16, one per token id."""
POSITIONS = "positions.npy"
"""Rows of positions, float16: [max_position, 2, D/2], cosines then sines; learned ones [max_position, d], to be
added."""

START = "start.npy"
"""Of a patch voice, [1, d] float16: what stands before a patch's first token."""
COMPRESS_POSITIONS, EXTRACT_POSITIONS = "compress_positions.npy", "extract_positions.npy"
"""Of a patch voice: rows of positions as POSITIONS, of its two nets."""


def write_decoder(
    decoder: Decoder | PatchDecoder,
    layout: Layout,
    ids: Sequence[int],
    max_position: int,
    compression: Compression,
    folder: Path,
    kind: Kind = COREML,
) -> None:
    """Write what `kind` reads and the tables into `folder`; logits are those of `ids`.

    Raises OptionError where the weights cannot be compressed so, OutputError where a file cannot be written.
    """
    write_tables(decoder, max_position, folder)
    kind.write(decoder_functions(decoder, layout, ids, compression), compression, folder / kind.decoder)


def decoder_functions(
    decoder: Decoder | PatchDecoder, layout: Layout, ids: Sequence[int], compression: Compression
) -> dict[str, Traceable]:
    """The functions of `layout` over one set of layers."""
    if isinstance(decoder, PatchDecoder):
        assert isinstance(layout, PatchLayout)
        return _patch_functions(decoder, layout, ids, compression)
    check_compression(_widths(decoder.config), compression)
    trunk, head = Trunk(decoder), Head(decoder.model.norm, _rows(decoder, ids))
    made = {DECODE: SlotPass(trunk, head, layout.rotary), PREFILL: _prefill(trunk, layout)}
    return {name: _traceable(layout, name, module) for name, module in made.items()}


def _patch_functions(
    decoder: PatchDecoder, layout: PatchLayout, ids: Sequence[int], compression: Compression
) -> dict[str, Traceable]:
    """The functions of a patch voice."""
    config, backbone, extractor = decoder.config, decoder.backbone, decoder.extractor
    nets = (config.compressor_layers, config.extractor_layers)
    shapes = [backbone.config, *(kind(backbone.config) for net in nets for kind in (net.tokens, net.cross))]
    check_compression([width for shape in shapes for width in _widths(shape)], compression)
    trunk = Trunk(backbone)
    made: dict[str, nn.Module] = {
        DECODE: PatchDecodePass(trunk, Teller(extractor, backbone.model.norm), layout.rotary),
        PREFILL: _prefill(trunk, layout),
        COMPRESS: CompressPass(decoder.compressor),
        EXTRACT: ExtractPass(extractor, _rows(backbone, ids)),
    }
    return {name: _traceable(layout, name, module) for name, module in made.items()}


def _prefill(trunk: Trunk, layout: Layout) -> SlotPass:
    """The function that fills caches."""
    return SlotPass(trunk, NoHead() if layout.stateful else None, layout.rotary)


def _widths(config: DecoderConfig) -> tuple[int, ...]:
    """Input widths of a net's matrices."""
    return config.hidden_size, config.heads * config.head_dim, config.intermediate_size


def _rows(decoder: Decoder, ids: Sequence[int]) -> Tensor:
    """The head's rows [V',d] of `ids`."""
    return decoder.head.detach()[torch.tensor(ids)]


def _traceable(layout: Layout, function: str, module: nn.Module) -> Traceable:
    """One function with the names of the contract."""
    io, states = layout.io(function), layout.states(function)
    inputs = {spec.name: tuple(int(axis) for axis in spec.shape) for spec in io.inputs}
    module = StatefulPass(module, states) if states else module
    return Traceable(module, inputs, [spec.name for spec in io.outputs], states)


@torch.no_grad()
def write_tables(decoder: Decoder | PatchDecoder, max_position: int, folder: Path) -> None:
    """Write EMBEDDING and POSITIONS; of a patch voice also START and the rows of its nets.

    `max_position` tokens are more than are ever said: the compressor needs no other row.
    """
    if isinstance(decoder, PatchDecoder):
        config, shape = decoder.config, decoder.backbone.config
        tables = {START: decoder.extractor.start[None]}
        tables[EXTRACT_POSITIONS] = _rotary_rows(config.extractor_layers.tokens(shape), config.patch)
        if config.compressor == "attention":
            tables[COMPRESS_POSITIONS] = _rotary_rows(config.compressor_layers.tokens(shape), max_position)
        _save(tables, folder)
        decoder = decoder.backbone
    learned, model = decoder.config.traits.learned_positions, decoder.model
    positions = model.embed_positions.weight[:max_position] if learned else _rotary_rows(decoder.config, max_position)
    _save({EMBEDDING: model.embed_tokens.weight, POSITIONS: positions}, folder)


def _rotary_rows(config: DecoderConfig, count: int) -> Tensor:
    """Cosines and sines of positions 0 to `count` - 1, [count, 2, D/2]."""
    return torch.stack(rotary_table(config, torch.arange(count)), 1)


def _save(tables: dict[str, Tensor], folder: Path) -> None:
    """Write tables by file name; OutputError where the disk refuses."""
    for name, rows in tables.items():
        try:
            np.save(folder / name, rows.to(torch.float16).numpy())
        except OSError as error:
            raise OutputError(f"{folder / name} cannot be written: {error}") from error
