"""Decoders with fewer layers: shared modules, configs of every family, and the layers that students imitate."""

from dataclasses import replace

import pytest
import torch

from sottovoce.compress.layers import keep_in_config, keep_layers
from sottovoce.compress.prune import matched_layers
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from tests.models.shapes import CONFIGS, tiny_decoder

IDS = torch.arange(12)[None]


@pytest.mark.parametrize("name", ["qwen2_tied", "llama_mha_biases", "gpt2_own_head"])
def test_a_decoder_without_layers_passes_over_them(name: str) -> None:
    """Against a decoder whose other layers add nothing to the residual stream."""
    deep = {"n_layer": 4} if name.startswith("gpt2") else {"num_hidden_layers": 4}
    decoder = tiny_decoder(name, **deep)
    fewer = keep_layers(decoder, (1, 3))
    assert fewer.config == replace(decoder.config, layers=2)
    assert fewer.model.layers[1] is decoder.model.layers[3] and fewer.head is decoder.head
    assert not any(p.is_meta for p in fewer.parameters()) and fewer.training is decoder.training
    said = fewer.logits(fewer(IDS))
    for layer in (decoder.model.layers[0], decoder.model.layers[2]):
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            for parameter in projection.parameters():
                parameter.zero_()
    torch.testing.assert_close(said, decoder.logits(decoder(IDS)))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_of_every_family(name: str) -> None:
    hf = CONFIGS[name] | {"layer_types": ["full_attention", "other"]}
    kept = keep_in_config(hf, DecoderConfig.from_hf(CONFIGS[name]).traits, (1,))
    assert DecoderConfig.from_hf(kept) == replace(DecoderConfig.from_hf(hf), layers=1)
    assert kept["layer_types"] == ["other"] and len(hf["layer_types"]) == 2
    assert kept.keys() == hf.keys()


def test_matching() -> None:
    assert matched_layers((0, 1, 4, 7), 10, "dynamic") == (0, 3, 6, 9)
    assert matched_layers((2, 3), 6, "dynamic") == (2, 5)
    assert matched_layers((0, 1, 4, 7), 10, "static") == (0, 1, 4, 7)
    every = tuple(range(5))
    assert matched_layers(every, 5, "dynamic") == matched_layers(every, 5, "static") == every


def test_a_kept_decoder_is_saved_like_any_other() -> None:
    decoder = tiny_decoder("qwen2_tied", num_hidden_layers=3)
    fewer = keep_layers(decoder, (0, 2))
    assert fewer.state_dict().keys() == Decoder(fewer.config).state_dict().keys()
    name = "self_attn.q_proj.weight"
    assert torch.equal(fewer.state_dict()[f"model.layers.1.{name}"], decoder.state_dict()[f"model.layers.2.{name}"])
