"""Tiny HF configs of every family, and decoders with all weights random (biases and norms too)."""

from typing import Any

import torch

from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder

_BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 97,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": None,
    "eos_token_id": None,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama3_rope": _BASE | {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": _LLAMA3},
    "llama_linear_rope": _BASE | {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama_mha_biases": _BASE
    | {"model_type": "llama", "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    "qwen2_tied": _BASE | {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3_head_dim": _BASE
    | {"model_type": "qwen3", "head_dim": 48, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "gpt2_tied": _GPT2,
    "gpt2_own_head": _GPT2
    | {
        "n_inner": 96,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-3,
        "tie_word_embeddings": False,
        "n_head": 8,
    },
}
"""Name → HF config.json content; what is absent takes HF's default."""


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Overwrite every parameter, so that a bias or norm that is dropped shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            scale = 0.5 if parameter.dim() == 1 else 0.15
            offset = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))


def tiny_decoder(name: str, seed: int = 0, **changes: Any) -> Decoder:
    """A decoder of the named config with random weights, float32, ready to infer."""
    decoder = Decoder(DecoderConfig.from_hf(CONFIGS[name] | changes))
    randomise(decoder, seed)
    return decoder.eval().requires_grad_(False)
