"""Shape of what lets a decoder speak in patches (TLDR, arXiv 2606.09019, tables 7 and 8). Knows no tensors."""

from dataclasses import dataclass
from typing import Literal

from sottovoce.errors import VoiceError
from sottovoce.models.config import DecoderConfig

Compressing = Literal["attention", "mean"]
Speaker = Literal["pooled", "none"]


@dataclass(frozen=True)
class StackConfig:
    """Layers of one of the two nets: `heads` of `head_dim` look at tokens, `cross_heads` across; `ff` as in SwiGLU."""

    layers: int
    heads: int
    head_dim: int
    cross_heads: int
    ff: int

    def tokens(self, backbone: DecoderConfig) -> DecoderConfig:
        """The layers that look at tokens, as wide as `backbone`: RMSNorm, rotary attention without groups, SwiGLU.

        Biases there are none, and theta is 10000: not in the paper. Raises VoiceError for sizes that cannot be.
        """
        return _llama(backbone, self.layers, self.heads, self.head_dim, self.ff)

    def cross(self, backbone: DecoderConfig) -> DecoderConfig:
        """The attention across, whose heads share d; raises VoiceError for sizes that cannot be."""
        head_dim = backbone.hidden_size // max(1, self.cross_heads)
        return _llama(backbone, self.layers, self.cross_heads, head_dim, self.ff)


@dataclass(frozen=True)
class PatchConfig:
    """`patch` tokens (k) to a step of the backbone.

    `compressor`: what a patch is beside the mean of its tokens ("mean" is the ablation, without layers); `window`: the
    tokens that a token sees there, itself included. `speaker`: what the extractor is told beside the backbone's word:
    the mean of the clip's patches, or nothing. `slots`: what that becomes in each of the extractor's layers (m).
    """

    patch: int
    compressor_layers: StackConfig
    extractor_layers: StackConfig
    compressor: Compressing = "attention"
    speaker: Speaker = "pooled"
    window: int = 16
    slots: int = 4

    def __post_init__(self) -> None:
        """Refuse what is no patch."""
        if self.patch < 2:
            raise VoiceError(f"patch {self.patch}: at least 2 tokens, one alone is what the voice does without patches")
        if min(self.window, self.slots) < 1:
            raise VoiceError(f"patch window {self.window} and slots {self.slots} must be at least 1")

    @classmethod
    def of(
        cls, backbone: DecoderConfig, patch: int, compressor: Compressing = "attention", speaker: Speaker = "pooled"
    ) -> "PatchConfig":
        """The paper's layers, window and slots in the sizes of `backbone`: its d, ff and head_dim.

        As many heads as fill d, so that head_dim is a multiple of 16 where the backbone's is, as the fused attention op
        asks for rotary; half as many look across, as in the paper (4 beside 8). The extractor has a sixth of the
        backbone's layers, as in the paper (4 beside 24), and at least 2.
        """
        heads = max(1, backbone.hidden_size // backbone.head_dim)
        sizes = heads, backbone.head_dim, max(1, heads // 2), backbone.intermediate_size
        depth = max(2, backbone.layers // 6)
        return cls(patch, StackConfig(1, *sizes), StackConfig(depth, *sizes), compressor, speaker)


def _llama(backbone: DecoderConfig, layers: int, heads: int, head_dim: int, ff: int) -> DecoderConfig:
    """Llama's kind of layer beside any family's backbone; vocabulary and positions have no tables there."""
    return DecoderConfig(
        family="llama",
        vocab_size=1,
        hidden_size=backbone.hidden_size,
        intermediate_size=ff,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        max_position=1,
        norm_eps=backbone.norm_eps,
    )
