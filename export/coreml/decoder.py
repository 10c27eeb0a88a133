"""A decoder as package or asset, and the tables that the host reads for it: embedding rows and rotary rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sottovoce.errors import OutputError
from sottovoce.export.coreml.convert import Compression, Traceable, check_compression
from sottovoce.export.coreml.kinds import COREML, Kind
from sottovoce.export.coreml.layout import DECODE, PREFILL, Layout
from sottovoce.export.coreml.modules import Head, SlotPass, StatefulPass, Trunk
from sottovoce.models.decoder import Decoder
from sottovoce.models.rope import rotary_table

PACKAGE = COREML.decoder
EMBEDDING = "embedding.npy"
"""Rows [V, d] float16, one per token id."""
POSITIONS = "positions.npy"
"""Rows of positions, float16: [max_position, 2, D/2], cosines then sines; learned ones [max_position, d], to be
added."""


def write_decoder(
    decoder: Decoder,
    layout: Layout,
    ids: Sequence[int],
    max_position: int,
    compression: Compression,
    folder: Path,
    kind: Kind = COREML,
) -> None:
    """Write what `kind` reads and both tables into `folder`; logits are those of `ids`.

    Raises OptionError where the weights cannot be compressed so, OutputError where a file cannot be written.
    """
    write_tables(decoder, max_position, folder)
    kind.write(decoder_functions(decoder, layout, ids, compression), compression, folder / kind.decoder)


def decoder_functions(
    decoder: Decoder, layout: Layout, ids: Sequence[int], compression: Compression
) -> dict[str, Traceable]:
    """`decode` and `prefill` over one set of layers."""
    config = decoder.config
    check_compression((config.hidden_size, config.heads * config.head_dim, config.intermediate_size), compression)
    trunk, head = Trunk(decoder), Head(decoder, ids)
    return {
        DECODE: _traceable(layout, DECODE, trunk, head),
        PREFILL: _traceable(layout, PREFILL, trunk, None),
    }


def _traceable(layout: Layout, function: str, trunk: Trunk, head: Head | None) -> Traceable:
    """One function with the names of the contract."""
    io = layout.io(function)
    inputs = {spec.name: tuple(int(axis) for axis in spec.shape) for spec in io.inputs}
    outputs = [spec.name for spec in io.outputs]
    if not layout.stateful:
        return Traceable(SlotPass(trunk, head, layout.rotary), inputs, outputs, {})
    states = dict.fromkeys(layout.cache_names(), layout.cache_shape)
    return Traceable(StatefulPass(trunk, head, layout.rotary, states), inputs, outputs, states)


@torch.no_grad()
def write_tables(decoder: Decoder, max_position: int, folder: Path) -> None:
    """Write EMBEDDING and POSITIONS."""
    model = decoder.model
    if decoder.config.traits.learned_positions:
        positions = model.embed_positions.weight[:max_position]
    else:
        positions = torch.stack(rotary_table(decoder.config, torch.arange(max_position)), 1)
    for name, rows in ((EMBEDDING, model.embed_tokens.weight), (POSITIONS, positions)):
        try:
            np.save(folder / name, rows.to(torch.float16).numpy())
        except OSError as error:
            raise OutputError(f"{folder / name} cannot be written: {error}") from error
