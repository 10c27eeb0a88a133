"""Shape of a decoder: one frozen dataclass read from an HF `config.json` of one of the families in `family.py`.

Knows nothing about tensors. What this package cannot reproduce exactly (other activations, other rope scalings, sliding
windows, pre-quantized weights) is refused here rather than computed wrongly.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args

from optimum.utils import NormalizedConfigManager

from sottovoce.errors import VoiceError
from sottovoce.models.family import ACTIVATIONS, FAMILIES, Activation, Family, Traits

RopeKind = Literal["default", "linear", "llama3"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base `theta`, and how frequencies are scaled (`factor`; llama3 uses all fields)."""

    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder: V `vocab_size`, d `hidden_size`, L `layers`, `heads`, H `kv_heads`, D `head_dim`."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_position: int
    norm_eps: float = 1e-6
    rope: RopeConfig = RopeConfig()
    tied_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        """Refuse shapes that contradict each other."""
        sizes = (self.vocab_size, self.hidden_size, self.intermediate_size, self.layers, self.heads, self.kv_heads)
        if min(*sizes, self.head_dim, self.max_position) < 1:
            raise VoiceError("config.json: every size must be at least 1")
        if self.heads % self.kv_heads:
            raise VoiceError(f"config.json: {self.heads} attention heads cannot share {self.kv_heads} KV heads evenly")
        if self.head_dim % 2 and not self.traits.learned_positions:
            raise VoiceError(f"config.json: head_dim {self.head_dim} is odd, rotary positions need pairs")

    @property
    def traits(self) -> Traits:
        """What the family's layers are made of."""
        return FAMILIES[self.family]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """Read a decoded HF `config.json`; VoiceError names the key that is missing or cannot be honoured."""
        family = _family(config)
        traits = FAMILIES[family]
        _refuse_unsupported(config, traits)
        normal = _Normalized(family, config)
        heads, width = normal.integer("num_attention_heads"), normal.integer("hidden_size")
        head_dim = traits.head_dim or width // max(heads, 1)
        return cls(
            family=family,
            vocab_size=normal.integer("vocab_size"),
            hidden_size=width,
            intermediate_size=normal.integer("intermediate_size", None if traits.gated else 4 * width),
            layers=normal.integer("num_layers"),
            heads=heads,
            kv_heads=normal.integer("num_key_value_heads", heads) if traits.grouped else heads,
            head_dim=normal.integer("head_dim", head_dim) if traits.grouped else head_dim,
            max_position=normal.integer("max_position_embeddings"),
            norm_eps=_number(config, *traits.norm_eps),
            rope=RopeConfig() if traits.learned_positions else _rope(config),
            tied_head=bool(config.get("tie_word_embeddings", traits.tied)),
            qkv_bias=_bias(config, traits.qkv_bias),
            output_bias=_bias(config, traits.output_bias),
            mlp_bias=_bias(config, traits.mlp_bias),
            activation=_activation(config, traits),
        )


def _family(config: Mapping[str, Any]) -> Family:
    """The family `model_type` names, VoiceError where it is not one of ours."""
    for family in get_args(Family):
        if config.get("model_type") == family:
            return cast(Family, family)
    raise VoiceError(
        f"config.json: model_type {config.get('model_type')!r} is not one of {', '.join(get_args(Family))}"
    )


class _Normalized:
    """An HF config seen through optimum's normalized attribute names for the family."""

    def __init__(self, family: Family, config: Mapping[str, Any]) -> None:
        names = {"attribute_map": FAMILIES[family].keys}
        self._view = NormalizedConfigManager.get_normalized_config_class(family)(SimpleNamespace(**{**config, **names}))

    def integer(self, name: str, default: int | None = None) -> int:
        """The whole number `name`, `default` where the config has none or null."""
        value = getattr(self._view, name) if self._view.has_attribute(name) else default
        if not isinstance(value, int) or isinstance(value, bool):
            raise VoiceError(f"config.json: {name} must be a whole number, found {value!r}")
        return value


def _bias(config: Mapping[str, Any], rule: bool | str) -> bool:
    """Whether there is a bias: what `rule` says, or the config under the key it names."""
    return bool(config.get(rule, False)) if isinstance(rule, str) else rule


def _activation(config: Mapping[str, Any], traits: Traits) -> Activation:
    """The activation the config names; a gated feed-forward takes silu, a plain one gelu."""
    key, default = traits.activation
    supported = [name for name, ours in ACTIVATIONS.items() if (ours == "silu") == traits.gated]
    if (name := config.get(key, default)) not in supported:
        raise VoiceError(f"config.json: {key} {name!r} is not supported ({', '.join(supported)}: yes)")
    return ACTIVATIONS[name]


def _refuse_unsupported(config: Mapping[str, Any], traits: Traits) -> None:
    """Raise VoiceError for settings that would change what the decoder computes."""
    for key, value in traits.fixed.items():
        if config.get(key, value) != value:
            raise VoiceError(f"config.json: {key} {config[key]!r} is not supported ({value} is)")
    if config.get("use_sliding_window"):
        raise VoiceError("config.json: use_sliding_window is not supported; the window is chosen at export (--window)")
    if config.get("quantization_config"):
        raise VoiceError("config.json: weights are already quantized; start from the fp16 or fp32 checkpoint")


def _rope(config: Mapping[str, Any]) -> RopeConfig:
    """Rope settings in the older (`rope_theta` + `rope_scaling`) or newer (`rope_parameters`) HF form."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise VoiceError(f"config.json: rope_scaling must be an object, found {scaling!r}")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in get_args(RopeKind):
        raise VoiceError(f"config.json: rope type {kind!r} is not one of {', '.join(get_args(RopeKind))}")
    if scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise VoiceError("config.json: partial_rotary_factor other than 1 is not supported")
    theta = _number(scaling, "rope_theta", _number(config, "rope_theta", 10000.0))
    fallback = _number(config, "max_position_embeddings", 8192)
    rope = RopeConfig(
        theta=theta,
        kind=kind,
        factor=_number(scaling, "factor", 1.0),
        low_freq_factor=_number(scaling, "low_freq_factor", 1.0),
        high_freq_factor=_number(scaling, "high_freq_factor", 4.0),
        original_max_position=int(_number(scaling, "original_max_position_embeddings", fallback)),
    )
    if min(theta, rope.factor, rope.low_freq_factor, rope.original_max_position) <= 0:
        raise VoiceError(f"config.json: rope theta {theta}, factors and lengths must be positive")
    if rope.kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        raise VoiceError("config.json: rope high_freq_factor must be above low_freq_factor")
    return rope


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    """The finite number `name`, `default` where the config has none."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < sys.float_info.max:
        raise VoiceError(f"config.json: {name} must be a number, found {str(value)[:60]}")
    return float(value)
