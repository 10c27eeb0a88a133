"""The decoder against transformers' own classes, and its training-side options against each other."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sottovoce.errors import VoiceError
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.names import place, unpack
from tests.models.shapes import CONFIGS, randomise, tiny_decoder

IDS = torch.randint(0, 97, (2, 150), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str) -> None:
    config = dict(CONFIGS[name])
    oracle = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config.pop("model_type")](**config))
    randomise(oracle)
    decoder = Decoder(DecoderConfig.from_hf(CONFIGS[name]))
    names = list(decoder.state_dict())
    assert set(oracle.state_dict()) - {place(name, decoder.config.traits).name for name in names} <= {"lm_head.weight"}
    decoder.load_state_dict(unpack(oracle.state_dict(), names, decoder.config.traits))
    with torch.no_grad():
        expected = oracle.eval()(IDS).logits
        actual = decoder.logits(decoder(IDS))
    assert expected.std() > 0.3
    assert (actual - expected).abs().max() <= 1e-5 * max(1.0, expected.std().item())


@pytest.mark.parametrize("name", CONFIGS)
def test_reads_what_transformers_writes(name: str) -> None:
    config = dict(CONFIGS[name])
    written = CONFIG_MAPPING[config.pop("model_type")](**config).to_dict()
    assert DecoderConfig.from_hf(written) == DecoderConfig.from_hf(CONFIGS[name])


def test_gpt2_has_heads_of_one_size_whatever_else_a_config_says() -> None:
    stray = {"num_key_value_heads": 1, "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1.0, "rope_theta": 5.0}
    assert DecoderConfig.from_hf(CONFIGS["gpt2_tied"] | stray) == DecoderConfig.from_hf(CONFIGS["gpt2_tied"])


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_explicit_causal_mask_equals_default(kind: str) -> None:
    decoder = tiny_decoder("qwen2_tied")
    visible = torch.ones(150, 150, dtype=torch.bool).tril()[None, None]
    additive = torch.zeros(visible.shape).masked_fill(~visible, -1e30)
    actual = decoder(IDS, mask=visible if kind == "bool" else additive)
    torch.testing.assert_close(actual, decoder(IDS))


@pytest.mark.parametrize("name", ["llama3_rope", "gpt2_tied"])
def test_positions_are_absolute(name: str) -> None:
    decoder = tiny_decoder(name)
    hidden = decoder(IDS, torch.arange(150))
    torch.testing.assert_close(hidden, decoder(IDS))
    assert (decoder(IDS, 2 * torch.arange(150)) - hidden).abs().max() > 0.1


@pytest.mark.parametrize("name", ["qwen2_tied", "gpt2_tied"])
def test_head_rows_and_embeddings(name: str) -> None:
    decoder = tiny_decoder(name)
    hidden = decoder(None, inputs_embeds=decoder.model.embed_tokens(IDS))
    torch.testing.assert_close(hidden, decoder(IDS))
    torch.testing.assert_close(decoder.logits(hidden, slice(10, 20)), decoder.logits(hidden)[..., 10:20])


@pytest.mark.parametrize("name", ["qwen3_head_dim", "gpt2_tied"])
def test_trains_under_bfloat16_autocast(name: str) -> None:
    decoder = Decoder(DecoderConfig.from_hf(CONFIGS[name]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = decoder.logits(decoder(IDS)).float().logsumexp(-1).mean()
    loss.backward()
    gradients = [p.grad for p in decoder.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_same_seed_same_weights() -> None:
    config = DecoderConfig.from_hf(CONFIGS["qwen2_tied"])
    assert torch.equal(Decoder(config, seed=3).head, Decoder(config, seed=3).head)
    assert not torch.equal(Decoder(config, seed=3).head, Decoder(config, seed=4).head)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "yarn"),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "KV heads"),
        ({"num_hidden_layers": "two"}, "num_layers"),
        ({"hidden_size": None}, "hidden_size"),
        ({"head_dim": 33}, "odd"),
        ({"vocab_size": 0}, "at least 1"),
        ({"rms_norm_eps": None}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a number"),
        ({"rope_theta": "1e6"}, "rope_theta must be a number"),
        ({"rope_scaling": "x"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"rope_type": ["linear"]}}, "rope type"),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, "factor must be a number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "must be positive"),
        ({"rope_scaling": {"rope_type": "llama3", "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": [1]}}, "must be a number"),
        ({"max_position_embeddings": None}, "max_position"),
    ],
)
def test_refuses_what_it_cannot_compute(change: dict[str, object], says: str) -> None:
    with pytest.raises(VoiceError, match=says):
        DecoderConfig.from_hf(CONFIGS["llama3_rope"] | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activation_function": "silu"}, "activation_function 'silu'"),
        ({"activation_function": ["gelu"]}, "activation_function"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
        ({"add_cross_attention": True}, "cross_attention"),
        ({"n_positions": None}, "max_position"),
        ({"n_layer": "two"}, "num_layers"),
        ({"n_inner": 1.5}, "intermediate_size"),
        ({"layer_norm_epsilon": "x"}, "layer_norm_epsilon must be a number"),
    ],
)
def test_refuses_of_gpt2_what_it_cannot_compute(change: dict[str, object], says: str) -> None:
    with pytest.raises(VoiceError, match=says):
        DecoderConfig.from_hf(CONFIGS["gpt2_tied"] | change)
