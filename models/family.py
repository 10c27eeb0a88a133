"""The decoder families as one table: what their layers are made of, and what Hugging Face calls the parts.

Knows no tensors. A new family is a row here; decoder, checkpoint and graph ask for its traits and never for its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Family = Literal["llama", "qwen2", "qwen3", "gpt2"]
Activation = Literal["silu", "gelu", "gelu_tanh"]

ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""HF's name of an activation → ours; `gelu_tanh` is the approximation by tanh."""


@dataclass(frozen=True)
class Traits:
    """What sets a family apart.

    `layer_norm`: LayerNorm with a bias instead of RMSNorm; `learned_positions`: a table added to the embedding instead
    of rotation; `gated`: down(act(gate) · up) instead of down(act(up)); `qk_norm`: queries and keys are normalised per
    head; `grouped`: the config may give fewer KV heads than heads, and a head_dim that is not d / heads; biases of
    q/k/v, of the attention's output and of the feed-forward: always, never, or as the config key named says.

    Of HF's config: `activation` and `norm_eps` are key and default, `tied` and `head_dim` defaults (None: d / heads),
    `keys` other names of common keys, `fixed` settings that must have the one value this package computes. Of HF's
    files: `names` renames the dotted parts of a parameter's name, and `conv1d` matrices are stored transposed, with
    queries, keys and values side by side.
    """

    layer_norm: bool = False
    learned_positions: bool = False
    gated: bool = True
    qk_norm: bool = False
    grouped: bool = True
    qkv_bias: bool | str = "attention_bias"
    output_bias: bool | str = "attention_bias"
    mlp_bias: bool | str = False
    activation: tuple[str, str] = ("hidden_act", "silu")
    norm_eps: tuple[str, float] = ("rms_norm_eps", 1e-6)
    tied: bool = False
    head_dim: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    conv1d: bool = False


FAMILIES: Final[Mapping[Family, Traits]] = {
    "llama": Traits(mlp_bias="mlp_bias"),
    "qwen2": Traits(qkv_bias=True, output_bias=False),
    "qwen3": Traits(qk_norm=True, head_dim=128),
    "gpt2": Traits(
        layer_norm=True,
        learned_positions=True,
        gated=False,
        grouped=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        activation=("activation_function", "gelu_new"),
        norm_eps=("layer_norm_epsilon", 1e-5),
        tied=True,
        keys={
            "num_hidden_layers": "n_layer",
            "max_position_embeddings": "n_positions",
            "intermediate_size": "n_inner",
        },
        fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        names={
            "model": "transformer",
            "embed_tokens": "wte",
            "embed_positions": "wpe",
            "norm": "ln_f",
            "layers": "h",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
            "self_attn": "attn",
            "q_proj": "c_attn",
            "k_proj": "c_attn",
            "v_proj": "c_attn",
            "o_proj": "c_proj",
            "up_proj": "c_fc",
            "down_proj": "c_proj",
        },
        conv1d=True,
    ),
}
