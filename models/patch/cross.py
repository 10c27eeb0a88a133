"""Attention from one sequence to another: patches look at their tokens, tokens at what conditions them."""

from torch import Tensor, nn

from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Attention, RMSNorm


class CrossAttention(nn.Module):
    """x + attention of norm(x) over norm(memory), without positions."""

    def __init__(self, config: DecoderConfig, norm_memory: bool = True) -> None:
        """Heads as `config` says; `norm_memory`: whether what is looked at is normalised too."""
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.norm_memory = RMSNorm(config.hidden_size, config.norm_eps) if norm_memory else nn.Identity()
        self.attention = Attention(config)

    def forward(self, x: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        """x [N,T,d] over memory [N,S,d], `visible` bool broadcastable to [N,1,T,S] → [N,T,d]."""
        attention, memory = self.attention, self.norm_memory(memory)
        q, k, v = (
            project(y).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project, y in (
                (attention.q_proj, self.norm(x)),
                (attention.k_proj, memory),
                (attention.v_proj, memory),
            )
        )
        return x + attention.attend(q, k, v, visible)
