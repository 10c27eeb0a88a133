"""The decoder as the Neural Engine likes it: (1, C, 1, S) throughout, 1×1 convolutions, and no integer anywhere.

Embedding and rotary rows come from the host. A cache is written by a blend, `cache · (1 − write) + new · write`:
writing to a computed place would be an op that engine has no path for. Sources: Apple ML Research, "Deploying
Transformers on the Apple Neural Engine" (layout, convolutions); design notes of this project for what was measured.

Letters: d hidden size, h heads, H KV heads, g = h / H, D head_dim, T tokens of a run, S slots, V' kept logits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.models.decoder import Attention, Decoder, FeedForward, Layer, RMSNorm

HEAD_ROWS = 16384
"""Most logits of one convolution: wider ones pass limits of the engine (its tensors have at most 16384 along an
axis)."""

TINY = 2.0**-14
"""Added to a norm's largest value, so that its inverse stays in half precision's range."""

Cache = tuple[Tensor, Tensor]


def convolution(linear: nn.Linear | Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A matrix [out, in] and its bias as a 1×1 convolution over the same memory."""
    if isinstance(linear, nn.Linear):
        linear, bias = linear.weight, linear.bias
    conv = nn.Conv2d(linear.shape[1], linear.shape[0], 1, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(linear.detach()[:, :, None, None], requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


class Norm(nn.Module):
    """RMSNorm or LayerNorm along one axis, in steps that stay within half precision's range.

    Squares of what is above 255 would be infinite there, so the input is divided by its largest value first. That
    cancels out but for ε, which is divided likewise.
    """

    def __init__(self, source: nn.Module, axis: int = 1) -> None:
        """`source` is one of the decoder's norms; its weight lies along `axis`."""
        super().__init__()
        assert isinstance(source, RMSNorm | nn.LayerNorm)
        self.axis, self.eps, self.centred = axis, source.eps, isinstance(source, nn.LayerNorm)
        shape = [-1 if a == axis else 1 for a in range(4)]
        self.weight = nn.Parameter(source.weight.detach().reshape(shape), requires_grad=False)
        bias = getattr(source, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().reshape(shape), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x → the same shape."""
        if self.centred:
            x = x - x.mean(self.axis, keepdim=True)
        scale = (x.abs().amax(self.axis, keepdim=True) + TINY).reciprocal()
        eps = scale * self.eps**0.5
        x = x * scale
        x = x * torch.rsqrt((x * x).mean(self.axis, keepdim=True) + eps * eps)
        x = x * self.weight
        return x if self.bias is None else x + self.bias


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [1,·,D,T], halves paired, by cos and sin [1,1,D/2,T]."""
    half = x.shape[2] // 2
    first, second = x[:, :, :half], x[:, :, half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), 2)


class SlotAttention(nn.Module):
    """Attention of T tokens over S cache slots, which hold what these tokens write."""

    def __init__(self, source: Attention) -> None:
        """Over the weights of `source`."""
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = source.heads, source.kv_heads, source.head_dim
        self.group = self.heads // self.kv_heads
        self.q, self.k, self.v, self.o = map(convolution, (source.q_proj, source.k_proj, source.v_proj, source.o_proj))
        normed = isinstance(source.q_norm, RMSNorm)
        self.q_norm: nn.Module = Norm(source.q_norm, 2) if normed else nn.Identity()
        self.k_norm: nn.Module = Norm(source.k_norm, 2) if normed else nn.Identity()

    def forward(
        self, x: Tensor, rotary: Cache | None, bias: Tensor, write: Tensor, keep: Tensor, cache: Cache
    ) -> tuple[Tensor, Cache]:
        """x [1,d,1,T], bias [1,1,gT,S], write [1,1,T,S], keep [1,1,1,S], cache 2 × [1,H,D,S] → [1,d,1,T], cache."""
        tokens = x.shape[-1]
        q = self.q_norm(self.q(x).reshape(1, self.heads, self.head_dim, tokens))
        k = self.k_norm(self.k(x).reshape(1, self.kv_heads, self.head_dim, tokens))
        v = self.v(x).reshape(1, self.kv_heads, self.head_dim, tokens)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        keys, values = (old * keep + _placed(new, write) for old, new in zip(cache, (k, v), strict=True))
        queries = self._grouped(q * self.head_dim**-0.5)
        shares = torch.softmax(torch.matmul(queries, keys) + bias, -1)
        mixed = self._ungrouped(torch.matmul(values, shares.transpose(2, 3)), tokens)
        return self.o(mixed), (keys, values)

    def _grouped(self, q: Tensor) -> Tensor:
        """q [1,h,D,T] → [1,H,gT,D]: the queries of heads that share a KV head, one after the other."""
        tokens, width = q.shape[-1], self.head_dim
        if tokens == 1:
            return q.reshape(1, self.kv_heads, self.group, width)
        q = q.reshape(1, self.kv_heads, self.group * width, tokens)
        parts = [q[:, :, i * width : (i + 1) * width] for i in range(self.group)]
        return torch.cat(parts, 3).transpose(2, 3) if self.group > 1 else q.transpose(2, 3)

    def _ungrouped(self, x: Tensor, tokens: int) -> Tensor:
        """x [1,H,D,gT] → [1,hD,1,T]."""
        if self.group > 1:
            x = torch.cat([x[:, :, :, i * tokens : (i + 1) * tokens] for i in range(self.group)], 2)
        return x.reshape(1, self.heads * self.head_dim, 1, tokens)


def _placed(new: Tensor, write: Tensor) -> Tensor:
    """new [1,H,D,T] in the slots that write [1,1,T,S] shows: [1,H,D,S], zeros elsewhere."""
    return new * write if new.shape[-1] == 1 else torch.matmul(new, write)


class SlotFeedForward(nn.Module):
    """The decoder's feed-forward as convolutions."""

    def __init__(self, source: FeedForward) -> None:
        """Over the weights of `source`."""
        super().__init__()
        self.gate = convolution(source.gate_proj) if source.gated else None
        self.up, self.down = convolution(source.up_proj), convolution(source.down_proj)
        self.approximate = source.approximate

    def forward(self, x: Tensor) -> Tensor:
        """x [1,d,1,T] → the same shape."""
        if self.gate is not None:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class SlotLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, source: Layer) -> None:
        """Over the weights of `source`."""
        super().__init__()
        self.attention = SlotAttention(source.self_attn)
        self.mlp = SlotFeedForward(source.mlp)
        self.before = Norm(source.input_layernorm)
        self.between = Norm(source.post_attention_layernorm)

    def forward(
        self, x: Tensor, rotary: Cache | None, bias: Tensor, write: Tensor, keep: Tensor, cache: Cache
    ) -> tuple[Tensor, Cache]:
        """See `SlotAttention`; x in, x and cache out."""
        attended, cache = self.attention(self.before(x), rotary, bias, write, keep, cache)
        x = x + attended
        return x + self.mlp(self.between(x)), cache


def keeping(write: Tensor) -> Tensor:
    """Which slots keep what they hold where write [1,1,T,S] fills the others: [1,1,1,S]."""
    return 1 - (write if write.shape[2] == 1 else write.sum(2, keepdim=True))


class Trunk(nn.Module):
    """All layers, and what one run of them needs besides weights."""

    def __init__(self, decoder: Decoder) -> None:
        """Over the weights of `decoder`."""
        super().__init__()
        self.layers = nn.ModuleList(SlotLayer(layer) for layer in decoder.model.layers)

    def forward(
        self, x: Tensor, rotary: Cache | None, bias: Tensor, write: Tensor, caches: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """x [1,d,1,T], bias [1,1,T,S], write [1,1,T,S], caches 2L × [1,H,D,S] → x and caches."""
        keep, group = keeping(write), self.layers[0].attention.group
        if group > 1 and bias.shape[2] > 1:
            bias = torch.cat([bias] * group, 2)
        written: list[Tensor] = []
        for layer, keys, values in zip(self.layers, caches[::2], caches[1::2], strict=True):
            x, cache = layer(x, rotary, bias, write, keep, (keys, values))
            written += cache
        return x, written


class Head(nn.Module):
    """Final norm and the kept rows of the head, in pieces that the engine takes."""

    def __init__(self, norm: nn.Module, rows: Tensor) -> None:
        """Logits over `rows` [V',d], in that order."""
        super().__init__()
        self.norm = Norm(norm)
        self.pieces = nn.ModuleList(convolution(piece) for piece in rows.split(HEAD_ROWS))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [1,d,1,1] → logits, [1,≤16384,1,1] each."""
        x = self.norm(x)
        return [piece(x) for piece in self.pieces]


class NoHead(nn.Module):
    """In the place of a head, for a function that must give something."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """x as it is."""
        return [x]


class SlotPass(nn.Module):
    """One function of the package: `decode` with a head, `prefill` without; caches as inputs and outputs."""

    def __init__(self, trunk: Trunk, head: Head | NoHead | None, rotary: bool) -> None:
        """`rotary`: cos and sin come as inputs; learned positions are in the embedding already."""
        super().__init__()
        self.trunk, self.head, self.rotary = trunk, head, rotary

    def forward(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """x, [cos, sin,] bias, write, caches → [logits …,] caches; see `Trunk`."""
        rotary, rest = ((rest[0], rest[1]), rest[2:]) if self.rotary else (None, rest)
        x, caches = self.trunk(x, rotary, rest[0], rest[1], rest[2:])
        return (*(self.head(x) if self.head is not None else ()), *caches)


class StatefulPass(nn.Module):
    """A pass whose caches Core ML keeps (iOS 18): buffers here, states there."""

    def __init__(self, inner: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
        """Buffers of `shapes` by name, in the order of the caches, which come last in and out of `inner`."""
        super().__init__()
        self.inner, self.names = inner, tuple(shapes)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `inner` takes and gives, but caches."""
        buffers = [getattr(self, name) for name in self.names]
        made: tuple[Tensor, ...] = self.inner(*inputs, *buffers)
        for buffer, written in zip(buffers, made[-len(buffers) :], strict=True):
            buffer[:] = written
        return made[: -len(buffers)]
