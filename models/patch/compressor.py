"""Tokens → patches (TLDR, arXiv 2606.09019, "token-to-patch compressor").

Letters: S streams, C tokens of a stream, k tokens of a patch, N patches, d hidden size. A stream is what one speaker
said in one go: its first token stands at position 0, and no token of another stream is seen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Layer, RMSNorm
from sottovoce.models.masks import wand_mask
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.cross import CrossAttention
from sottovoce.models.rope import rotary_table


class CompressorLayer(nn.Module):
    """Tokens look at the tokens before them; then each patch looks at its tokens, and at no other's."""

    def __init__(self, config: PatchConfig, backbone: DecoderConfig) -> None:
        """`tokens`: local causal attention and SwiGLU; `cross`: patches to tokens."""
        super().__init__()
        self.tokens = Layer(config.compressor_layers.tokens(backbone))
        self.cross = CrossAttention(config.compressor_layers.cross(backbone))

    def look(self, patches: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        """Patches [...,d] after a look at their own tokens [...,k,d], of which the `real` [...,k] bool count."""
        # A patch of padding alone sees its first token: nobody reads it, but NaN would reach every gradient.
        visible = real | (torch.arange(real.shape[-1], device=real.device) == 0)
        flat = patches.flatten(0, -2)[:, None], tokens.flatten(0, -3), visible.flatten(0, -2)[:, None, None]
        seen: Tensor = self.cross(*flat)
        return seen.reshape(patches.shape)


class Compressor(nn.Module):
    """Embedded tokens of whole streams → patches, which stand where tokens stood in the backbone."""

    def __init__(self, config: PatchConfig, backbone: DecoderConfig) -> None:
        """The mean alone has no layers."""
        super().__init__()
        self.patch, self.window = config.patch, config.window
        self.shape = config.compressor_layers.tokens(backbone)
        self.norm = RMSNorm(backbone.hidden_size, backbone.norm_eps)
        count = config.compressor_layers.layers if config.compressor == "attention" else 0
        self.layers = nn.ModuleList(CompressorLayer(config, backbone) for _ in range(count))

    def mean(self, tokens: Tensor, real: Tensor) -> Tensor:
        """RMSNorm of the mean of a patch's tokens [...,k,d], of which the `real` [...,k] bool count → [...,d]."""
        weights = real.float() / real.sum(-1, keepdim=True).clamp(min=1)
        patches: Tensor = self.norm((tokens * weights[..., None]).sum(-2))
        return patches

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Embedded tokens [S,C,d], right-padded: `real` [S,C] bool → patches [S,ceil(C/k),d].

        The last patch of a stream may be short; patches of padding alone hold numbers that mean nothing.
        """
        missing = -tokens.shape[1] % self.patch
        tokens, real = F.pad(tokens, (0, 0, 0, missing)), F.pad(real, (0, missing))
        real = real.unflatten(1, (-1, self.patch))
        patches = self.mean(tokens.unflatten(1, (-1, self.patch)), real)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Padding lies to the right, where causal attention does not look.
        mask = wand_mask(len(positions), torch.zeros_like(positions[:1]), self.window)
        rotary = rotary_table(self.shape, positions)
        for layer in self.layers:
            tokens = layer.tokens(tokens, rotary, mask)
            patches = layer.look(patches, tokens.unflatten(1, (-1, self.patch)), real)
        return patches
