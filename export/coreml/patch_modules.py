"""A patch voice as the Neural Engine likes it (see `modules.py`): four functions, since the host draws the tokens.

`compress`: the tokens of a patch → the patch. `prefill`: as in any voice. `decode`: a place of the backbone → what the
extractor is told, as keys and values. `extract`: a token of a patch → the logits of the next.

Letters as in `modules.py`, and k tokens of a patch, m slots that the extractor is told.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sottovoce.export.coreml.modules import Cache, Head, Norm, SlotLayer, Trunk, convolution, keeping
from sottovoce.models.decoder import RMSNorm
from sottovoce.models.patch.compressor import Compressor
from sottovoce.models.patch.cross import CrossAttention
from sottovoce.models.patch.extractor import Extractor


class Memory(nn.Module):
    """What is looked at, as keys and values."""

    def __init__(self, source: CrossAttention) -> None:
        """Over the weights of `source`."""
        super().__init__()
        attention = source.attention
        self.heads, self.head_dim = attention.kv_heads, attention.head_dim
        normed = isinstance(source.norm_memory, RMSNorm)
        self.norm: nn.Module = Norm(source.norm_memory) if normed else nn.Identity()
        self.k, self.v = convolution(attention.k_proj), convolution(attention.v_proj)

    def forward(self, x: Tensor) -> Cache:
        """x [1,d,1,m] → keys and values [1,h,m,D]: the longer axis last."""
        x = self.norm(x)
        parts = (made.reshape(1, self.heads, self.head_dim, -1).transpose(2, 3) for made in (self.k(x), self.v(x)))
        keys, values = parts
        return keys, values


class Look(nn.Module):
    """x + attention of norm(x), one column, over keys and values."""

    def __init__(self, source: CrossAttention) -> None:
        """Over the weights of `source`."""
        super().__init__()
        attention = source.attention
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.norm = Norm(source.norm)
        self.q, self.o = convolution(attention.q_proj), convolution(attention.o_proj)

    def forward(self, x: Tensor, memory: Cache, bias: Tensor | None = None) -> Tensor:
        """x [1,d,1,1] over 2 × [1,h,m,D], bias [1,1,1,m] → the same shape as x."""
        keys, values = memory
        queries = self.q(self.norm(x)).reshape(1, self.heads, 1, self.head_dim) * self.head_dim**-0.5
        scores = torch.matmul(queries, keys.transpose(2, 3))
        shares = torch.softmax(scores if bias is None else scores + bias, -1)
        return x + self.o(torch.matmul(shares, values).reshape(1, self.heads * self.head_dim, 1, 1))


class CompressPass(nn.Module):
    """Function `compress`: T columns, of which the first k are a patch's tokens, and the last of these padding."""

    def __init__(self, compressor: Compressor) -> None:
        """Over the weights of `compressor`; a mean alone has neither layers nor caches."""
        super().__init__()
        self.norm = Norm(compressor.norm)
        self.tokens = nn.ModuleList(SlotLayer(layer.tokens) for layer in compressor.layers)
        self.memory = nn.ModuleList(Memory(layer.cross) for layer in compressor.layers)
        self.look = nn.ModuleList(Look(layer.cross) for layer in compressor.layers)

    def forward(self, x: Tensor, share: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """x [1,d,1,T], share [1,1,1,T] of each token in the mean, and for layers cos, sin, bias and write as in
        `Trunk`, patch_bias [1,1,1,T], caches → patch [1,d,1,1], caches."""
        patch = self.norm((x * share).sum(3, keepdim=True))
        if not self.tokens:
            return (patch,)
        cos, sin, bias, write, patch_bias, *caches = rest
        keep, written = keeping(write), list[Tensor]()
        for number, (tokens, memory, look) in enumerate(zip(self.tokens, self.memory, self.look, strict=True)):
            cache = caches[2 * number], caches[2 * number + 1]
            x, cache = tokens(x, (cos, sin), bias, write, keep, cache)
            patch = look(patch, memory(x), patch_bias)
            written += cache
        return (patch, *written)


class Teller(nn.Module):
    """The backbone's word and the speaker → what each of the extractor's layers looks at."""

    def __init__(self, extractor: Extractor, norm: nn.Module) -> None:
        """Over the weights of `extractor`; `norm` is the backbone's last."""
        super().__init__()
        self.norm = Norm(norm)
        self.speaker = None if extractor.speaker is None else convolution(extractor.speaker)
        self.fuse = convolution(extractor.fuse)
        self.slots = nn.ModuleList(convolution(layer.slot) for layer in extractor.layers)
        self.memory = nn.ModuleList(Memory(layer.cross) for layer in extractor.layers)

    def forward(self, x: Tensor, speaker: Tensor | None) -> list[Tensor]:
        """x [1,d,1,1], speaker [1,d,1,1] → keys and values [1,h,m,D] of layer 0, of layer 1, …"""
        word, width = self.norm(x), x.shape[1]
        if self.speaker is not None and speaker is not None:
            word = torch.cat((word, self.speaker(speaker)), 1)
        told, made = self.fuse(word), list[Tensor]()
        for slots, memory in zip(self.slots, self.memory, strict=True):
            made += memory(slots(told).reshape(1, -1, 1, width).permute(0, 3, 2, 1))
        return made


class PatchDecodePass(nn.Module):
    """Function `decode` of a patch voice."""

    def __init__(self, trunk: Trunk, teller: Teller, rotary: bool) -> None:
        """`rotary`: cos and sin come as inputs, as in `SlotPass`."""
        super().__init__()
        self.trunk, self.told, self.rotary = trunk, teller, rotary

    def forward(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """x, [cos, sin,] bias, write, [speaker,] caches → told keys and values, caches."""
        rotary, rest = ((rest[0], rest[1]), rest[2:]) if self.rotary else (None, rest)
        bias, write, *more = rest
        speaker = more.pop(0) if self.told.speaker is not None else None
        x, caches = self.trunk(x, rotary, bias, write, more)
        return (*self.told(x, speaker), *caches)


class ExtractPass(nn.Module):
    """Function `extract`: one token of a patch over those before it."""

    def __init__(self, extractor: Extractor, rows: Tensor) -> None:
        """Over the weights of `extractor`, and `rows` [V',d] of the head."""
        super().__init__()
        self.look = nn.ModuleList(Look(layer.cross) for layer in extractor.layers)
        self.tokens = nn.ModuleList(SlotLayer(layer.tokens) for layer in extractor.layers)
        self.head = Head(extractor.norm, rows)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, write: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """x [1,d,1,1], cos and sin, bias and write as in `Trunk`, told keys and values, caches → logits …, caches."""
        told, caches = _pairs(rest[: 2 * len(self.look)]), _pairs(rest[2 * len(self.look) :])
        keep, written = keeping(write), list[Tensor]()
        for look, tokens, memory, cache in zip(self.look, self.tokens, told, caches, strict=True):
            x, cache = tokens(look(x, memory), (cos, sin), bias, write, keep, cache)
            written += cache
        return (*self.head(x), *written)


def _pairs(tensors: Sequence[Tensor]) -> list[Cache]:
    """Keys with their values."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))
