"""Which layer bears which format: KL to float32 with one layer rounded at a time, over what the voice says itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sottovoce.export.cache_scales import Utterance
from sottovoce.export.parity import divergence
from sottovoce.export.quantize import rounded
from sottovoce.models.decoder import Decoder, Rotary
from sottovoce.models.masks import wand_mask

Format = tuple[int, int]
"""Bits and block."""

FORMATS: tuple[Format, ...] = ((8, 128), (4, 32), (4, 64), (4, 128), (2, 64))
"""What is tried; 2 bits only here: no bundle is written in them."""

TABLE = "head and embedding"


@dataclass(frozen=True)
class Row:
    """Part of a decoder and format → KL(float32 ‖ rounded), nats per token; `bytes` the part then takes."""

    part: str
    bits: int
    block: int
    kl: float
    bytes: int


@dataclass(frozen=True)
class Sensitivity:
    """`rows` by part, then format; over `tokens` of the voice's own speech."""

    tokens: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class _Heard:
    """An utterance: what every layer reads, [1,T,d] each, the final hidden states last; logits [n,V'] of float32."""

    ids: Tensor
    start: int
    mask: Tensor
    rotary: Rotary | None
    inputs: list[Tensor]
    logits: Tensor


@torch.no_grad()
def sensitivity(
    decoder: Decoder,
    utterances: Sequence[Utterance],
    window: int,
    head_ids: Sequence[int],
    formats: Sequence[Format] = FORMATS,
    progress: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Round each layer, then head and embedding, all others left float32; W = `window`, V' = `head_ids`.

    Rounded to the nearest, activations not at all. The decoder is as it was when this returns.
    """
    ids = torch.tensor(head_ids)
    heard = [_hear(decoder, prefix, tokens, window, ids) for prefix, tokens in utterances]
    rows = []
    for index in range(-1, decoder.config.layers):
        name = TABLE if index < 0 else f"layer {index}"
        progress(name)
        matrices = list(_matrices(decoder, index))
        for bits, block in formats:
            with _Rounded(matrices, bits, block) as size:
                found = [_logits(decoder, one, index, ids) for one in heard]
            kl = divergence(torch.cat([one.logits for one in heard]).numpy(), torch.cat(found).numpy())
            rows.append(Row(name, bits, block, kl, size))
    return Sensitivity(sum(len(one.logits) for one in heard), tuple(rows))


def _hear(decoder: Decoder, prefix: Sequence[int], tokens: Sequence[int], window: int, head_ids: Tensor) -> _Heard:
    """Run an utterance in float32 and keep what every layer read; positions from the prefix's last on are judged."""
    ids = torch.tensor([[*prefix, *tokens]])
    mask, start = wand_mask(ids.shape[1], len(prefix), window), len(prefix) - 1
    x, rotary = decoder.begin(ids)
    inputs = [x]
    for layer in decoder.model.layers:
        inputs.append(layer(inputs[-1], rotary, mask))
    logits = decoder.logits(decoder.model.norm(inputs[-1])[0, start:], head_ids)
    return _Heard(ids, start, mask, rotary, inputs, logits)


def _logits(decoder: Decoder, heard: _Heard, index: int, head_ids: Tensor) -> Tensor:
    """Logits [n,V'] once layer `index` (-1: the embedding) has changed: layers before it are as they were."""
    x = decoder.begin(heard.ids)[0] if index < 0 else heard.inputs[index]
    for layer in decoder.model.layers[max(index, 0) :]:
        x = layer(x, heard.rotary, heard.mask)
    return decoder.logits(decoder.model.norm(x)[0, heard.start :], head_ids)


def _matrices(decoder: Decoder, index: int) -> Iterator[nn.Parameter]:
    """The matrices of a layer, or (-1) embedding and head."""
    if index < 0:
        yield decoder.model.embed_tokens.weight
        if not decoder.config.tied_head:
            yield decoder.lm_head.weight
    else:
        yield from (p for p in decoder.model.layers[index].parameters() if p.dim() == 2)


class _Rounded:
    """Matrices rounded inside a `with` block, and as they were behind it."""

    def __init__(self, matrices: Sequence[nn.Parameter], bits: int, block: int) -> None:
        """Nothing is rounded yet."""
        self._matrices, self._bits, self._block = matrices, bits, block
        self._before = [matrix.clone() for matrix in matrices]

    def __enter__(self) -> int:
        """Bytes of the rounded matrices, scales included."""
        size = 0
        for matrix, before in zip(self._matrices, self._before, strict=True):
            matrix.copy_(torch.from_numpy(rounded(before.numpy(), self._block, self._bits)))
            blocks = len(matrix) * -(-matrix.shape[1] // self._block)
            size += blocks * (self._block * self._bits // 8 + 4)
        return size

    def __exit__(self, *_: object) -> None:
        """Put back what was there."""
        for matrix, before in zip(self._matrices, self._before, strict=True):
            matrix.copy_(before)
