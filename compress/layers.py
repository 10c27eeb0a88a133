"""A decoder with fewer layers: the same modules, some left out; the residual stream passes over what is gone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sottovoce.models.decoder import Decoder
from sottovoce.models.family import Traits

_COUNT = "num_hidden_layers"
_PER_LAYER = "layer_types"
"""A list of HF's configs with an entry per layer."""


def keep_layers(decoder: Decoder, kept: Sequence[int]) -> Decoder:
    """A decoder of the layers `kept` (rising numbers, at least one) of `decoder`, whose modules both share."""
    with torch.device("meta"):
        fewer = Decoder(replace(decoder.config, layers=len(kept)))
    for name, part in decoder.model.named_children():
        setattr(fewer.model, name, part)
    fewer.model.layers = nn.ModuleList(decoder.model.layers[i] for i in kept)
    if not decoder.config.tied_head:
        fewer.lm_head = decoder.lm_head
    return fewer.train(decoder.training)


def keep_in_config(hf: Mapping[str, Any], traits: Traits, kept: Sequence[int]) -> dict[str, Any]:
    """HF's `config.json` of a decoder with those layers alone; `traits` are the family's."""
    counts = {name: len(kept) for name in {_COUNT, traits.keys.get(_COUNT, _COUNT)} & hf.keys()}
    lists = {_PER_LAYER: [hf[_PER_LAYER][i] for i in kept]} if hf.get(_PER_LAYER) else {}
    return {**hf, **counts, **lists}
