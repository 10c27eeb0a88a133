"""The decoder, once, for every family; parameters are called as in Hugging Face's Llama (`names.py` knows others).

Knows nothing about caches: `Attention.project` and `Attention.attend` are apart so that `ring.py` can put one between
them. Letters: B batch, T tokens, d hidden size, H KV heads, D head_dim, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.models.config import DecoderConfig
from sottovoce.models.rope import rotary_table, rotate

Rotary = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, in float32 whatever comes in."""

    def __init__(self, size: int, eps: float) -> None:
        """Weight [size], ones at the start."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] → the same shape, float32."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def make_norm(config: DecoderConfig) -> nn.Module:
    """The family's norm over d."""
    kind = nn.LayerNorm if config.traits.layer_norm else RMSNorm
    return kind(config.hidden_size, config.norm_eps)


class Attention(nn.Module):
    """Grouped-query attention; queries and keys are rotated (and normalised first, Qwen3) before they meet."""

    def __init__(self, config: DecoderConfig) -> None:
        """Projections as in HF: q [heads·D, d], k and v [H·D, d], o [d, heads·D]."""
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, wide, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, narrow, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, narrow, bias=config.qkv_bias)
        self.o_proj = nn.Linear(wide, config.hidden_size, bias=config.output_bias)
        normed = config.traits.qk_norm
        self.q_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps) if normed else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps) if normed else nn.Identity()

    def project(self, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B,T,d] → queries [B,heads,T,D] and keys [B,H,T,D], rotated where `rotary` is given, values [B,H,T,D]."""
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotary is not None:
            cos, sin = (table.to(v.dtype).unsqueeze(-2) for table in rotary)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Queries [B,heads,T,D] over keys and values [B,H,S,D] → [B,T,d]; no mask means causal (S = T)."""
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        grouped = self.heads != self.kv_heads
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, rotary: Rotary | None, mask: Tensor | None) -> Tensor:
        """Whole-sequence attention over x [B,T,d] → [B,T,d]."""
        return self.attend(*self.project(x, rotary), mask)


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), or down(gelu(up(x))) in families without a gate."""

    def __init__(self, config: DecoderConfig) -> None:
        """Projections as in HF: gate and up [ff, d], down [d, ff]."""
        super().__init__()
        self.gated = config.traits.gated
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        if self.gated:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B,T,d] → [B,T,d]."""
        if self.gated:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.gelu(self.up_proj(x), approximate=self.approximate))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: DecoderConfig) -> None:
        """Attention and feed-forward, a norm before each."""
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(config)

    def forward(self, x: Tensor, rotary: Rotary | None, mask: Tensor | None) -> Tensor:
        """x [B,T,d] → [B,T,d]."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embedding, layers and final norm: what HF keeps under `model.`."""

    def __init__(self, config: DecoderConfig) -> None:
        """L layers over an embedding [V, d], and a table [max_position, d] where positions are learned."""
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.traits.learned_positions:
            self.embed_positions = nn.Embedding(config.max_position, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = make_norm(config)


class Decoder(nn.Module):
    """Token ids → hidden states → logits; weights are random until a state dict with HF names is loaded."""

    def __init__(self, config: DecoderConfig, seed: int = 0) -> None:
        """Matrices ~ N(0, 0.02²) from `seed`, biases 0, norms 1; a tied head has no parameter of its own."""
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        if not config.tied_head:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Draw the weights (the usual GPT-2 scale, HF's `initializer_range`); nothing to draw on the meta device."""
        if self.model.norm.weight.is_meta:
            return
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()

    @property
    def head(self) -> Tensor:
        """Weight of the output head [V, d]; the embedding itself where they are tied."""
        return self.model.embed_tokens.weight if self.config.tied_head else self.lm_head.weight

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None = None,
        mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, [B,T,d] float32.

        `input_ids` [B,T] int64, or `inputs_embeds` [B,T,d] instead; `position_ids` [B,T] or [T], 0..T-1 by default;
        `mask` bool (True is seen) or additive float, broadcastable to [B,1,T,T], causal by default.
        """
        x, rotary = self.begin(input_ids, position_ids, inputs_embeds)
        for layer in self.model.layers:
            x = layer(x, rotary, mask)
        return self.model.norm(x)

    def begin(
        self, input_ids: Tensor | None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Rotary | None]:
        """What the first layer reads, [B,T,d], and cos and sin for all layers (None: learned positions were added)."""
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        positions = torch.arange(x.shape[1], device=x.device) if position_ids is None else position_ids
        if self.config.traits.learned_positions:
            return x + self.model.embed_positions(positions), None
        return x, rotary_table(self.config, positions)

    def logits(self, hidden: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """Hidden [..., d] → logits [..., V], or only those of the head's `rows` (ids or a slice), in that order."""
        weight = self.head if rows is None else self.head[rows]
        return F.linear(hidden, weight)
