"""A word of the backbone → the k tokens of a patch, one after the other (TLDR, arXiv 2606.09019, "extractor").

Letters: R patches, k tokens of a patch, m slots, d hidden size. Nothing is kept from one patch to the next.
"""

import torch
from torch import Tensor, nn

from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Layer, RMSNorm
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.cross import CrossAttention
from sottovoce.models.rope import rotary_table


class ExtractorLayer(nn.Module):
    """Tokens look at the m slots that condition them, then at the tokens before them in their patch."""

    def __init__(self, config: PatchConfig, backbone: DecoderConfig) -> None:
        """`slot` is W_slot; a norm after it is not in the paper, and there is none."""
        super().__init__()
        self.slots = config.slots
        self.slot = nn.Linear(backbone.hidden_size, config.slots * backbone.hidden_size, bias=False)
        self.cross = CrossAttention(config.extractor_layers.cross(backbone), norm_memory=False)
        self.tokens = Layer(config.extractor_layers.tokens(backbone))

    def condition(self, x: Tensor, told: Tensor) -> Tensor:
        """Tokens x [R,T,d] after a look at C = reshape(W_slot g̃) [R,m,d], made of g̃ = `told` [R,d]."""
        slots = self.slot(told).unflatten(-1, (self.slots, -1))
        seen: Tensor = self.cross(x, slots, torch.ones(1, 1, 1, self.slots, dtype=torch.bool, device=x.device))
        return seen


class Extractor(nn.Module):
    """The local decoder: what it is told, and the tokens of the patch so far → hidden states of those that follow."""

    def __init__(self, config: PatchConfig, backbone: DecoderConfig) -> None:
        """`start` stands before a patch's first token; that, and a norm before the head, are not in the paper."""
        super().__init__()
        width, speaks = backbone.hidden_size, config.speaker == "pooled"
        self.shape = config.extractor_layers.tokens(backbone)
        self.start = nn.Parameter(torch.zeros(width))
        self.speaker = nn.Linear(width, width, bias=False) if speaks else None
        self.fuse = nn.Linear(2 * width if speaks else width, width, bias=False)
        self.layers = nn.ModuleList(ExtractorLayer(config, backbone) for _ in range(config.extractor_layers.layers))
        self.norm = RMSNorm(width, backbone.norm_eps)

    @torch.no_grad()
    def hand_on(self) -> None:
        """Add what carries g to every slot, and in the first layer on to the tokens.

        Not in the paper: the first token of a patch then starts from the word that would have been spoken without one.
        """
        width = len(self.start)
        _pass_on(self.fuse.weight[:, :width])
        for layer in self.layers:
            _pass_on(layer.slot.weight.unflatten(0, (-1, width)))
            _pass_on(layer.cross.attention.v_proj.weight)
        _pass_on(self.layers[0].cross.attention.o_proj.weight)

    def told(self, context: Tensor, speaker: Tensor) -> Tensor:
        """g̃ = W_c [g; W_s s] of g = `context` [...,d] and s = `speaker` [...,d], or W_c g where no speaker is told."""
        parts = [context] if self.speaker is None else [context, self.speaker(speaker)]
        fused: Tensor = self.fuse(torch.cat(parts, dim=-1))
        return fused

    def forward(self, tokens: Tensor, told: Tensor) -> Tensor:
        """Embedded tokens [R,k-1,d] of patches without their last, `told` [R,d] → hidden states [R,k,d].

        The one at j makes token j, and has seen the tokens before it.
        """
        x = torch.cat((self.start.expand(len(tokens), 1, -1), tokens), dim=1)
        rotary = rotary_table(self.shape, torch.arange(x.shape[1], device=x.device))
        for layer in self.layers:
            x = layer.tokens(layer.condition(x, told), rotary, None)
        hidden: Tensor = self.norm(x)
        return hidden


def _pass_on(weight: Tensor) -> None:
    """Add the identity to matrices [...,out,in], in place."""
    weight += torch.eye(*weight.shape[-2:], device=weight.device)
