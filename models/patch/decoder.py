"""A decoder that takes a step per patch (TLDR, arXiv 2606.09019), over whole sequences, as it is trained.

The backbone reads text and patches; its word after the prefix, and after each patch, is told to the extractor, which
says the tokens of the next. A patch is made of its own tokens and those before them, so that nothing leaks back.
"""

import torch
from torch import Tensor, nn

from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.models.patch.compressor import Compressor
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.extractor import Extractor
from sottovoce.models.patch.places import Places, Stream, find_places, gather
from sottovoce.runtime.manifest import PromptSpec


class PatchDecoder(nn.Module):
    """`backbone`, and the two nets around it; token embeddings and head are the backbone's."""

    spoken: Tensor

    def __init__(self, backbone: Decoder, config: PatchConfig, prompt: PromptSpec, seed: int = 0) -> None:
        """Nets with weights drawn from `seed`; `prompt` says which ids are codes, and which ones end an utterance."""
        super().__init__()
        self.backbone, self.config = backbone, config
        self.compressor = Compressor(config, backbone.config)
        self.extractor = Extractor(config, backbone.config)
        self.codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
        ids = torch.tensor(sorted({*self.codes, *prompt.stop}), device=backbone.head.device)
        self.register_buffer("spoken", ids, persistent=False)
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Draw the nets' matrices as a decoder's. Not in the paper: a patch starts as large as the tokens were.

        Nor is it that the extractor starts by handing on the backbone's word (see `Extractor.hand_on`).
        """
        embedding = self.backbone.model.embed_tokens.weight
        if embedding.is_meta:
            return
        generator = torch.Generator().manual_seed(seed)
        for net in (self.compressor, self.extractor):
            for parameter in net.parameters():
                if parameter.dim() > 1 or parameter is self.extractor.start:
                    parameter.normal_(0.0, 0.02, generator=generator)
        self.compressor.norm.weight.fill_(embedding[self.spoken].square().mean().sqrt())
        self.extractor.hand_on()

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [...,d] → logits [...,V'] of `spoken`, codes and stop ids in rising order."""
        return self.backbone.logits(hidden, self.spoken)

    def forward(self, ids: Tensor, prefix: Tensor, lengths: Tensor, window: int | None = None) -> Tensor:
        """Rows `ids` [B,T] int64, right-padded, of `prefix` [B] and `lengths` [B] tokens → hidden states [B,T,d].

        As a decoder's, the one at t makes the token after token t: from the prefix's last token on, zeros elsewhere.
        `window`: patches that a generated patch sees, itself included, beside the prefix (None: all before it).
        """
        places = find_places(ids, prefix, lengths, self.codes, self.config.patch)
        embedded = self.backbone.model.embed_tokens(ids)
        x, speaker = self.read(embedded, places)
        mask = None if window is None else wand_mask(x.shape[1], places.prefix, window)
        return self._tell(self.backbone(None, places.positions, mask, x), speaker, embedded, places)

    def read(self, embedded: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Embedded rows [B,T,d] → what the backbone reads [B,M,d], and the speaker s [B,d]."""
        clip, said = self._patches(embedded, places.clip), self._patches(embedded, places.said)
        return gather(torch.cat((embedded, clip, said), dim=1), places.source), self._speaker(clip, places.clip)

    def _patches(self, embedded: Tensor, stream: Stream) -> Tensor:
        """The patches [B,N,d] of a stream; none where no row has a token of it."""
        if stream.real.shape[1] == 0:
            return embedded[:, :0]
        patches: Tensor = self.compressor(stream.take(embedded), stream.real)
        return patches

    def _speaker(self, patches: Tensor, clip: Stream) -> Tensor:
        """s, the mean of the clip's patches [B,N,d] → [B,d]; zeros where a row has no clip.

        The paper takes an embedding of a speaker verification net, which would have to travel with the voice.
        """
        exists = clip.real[:, :: self.config.patch, None].float()
        return (patches * exists).sum(1) / exists.sum(1).clamp(min=1)

    def _tell(self, context: Tensor, speaker: Tensor, embedded: Tensor, places: Places) -> Tensor:
        """Words of the backbone [B,M,d] → hidden states [B,T,d] of the extractor (see `forward`)."""
        k = self.config.patch
        # A row has one more target than tokens that were said: the stop.
        words = torch.arange(-(-(places.said.real.shape[1] + 1) // k), device=context.device)
        told = gather(context, (places.prefix[:, None] - 1 + words).clamp(max=context.shape[1] - 1))
        told = self.extractor.told(told, speaker[:, None].expand_as(told))
        # The token before token j of a patch stands where the target of token j does.
        steps = torch.arange(len(words) * k, device=context.device)
        before = gather(embedded, (places.first[:, None] + steps).clamp(max=embedded.shape[1] - 1))
        hidden = self.extractor(before.reshape(-1, k, before.shape[-1])[:, 1:], told.flatten(0, 1))
        return _put(hidden.reshape(before.shape), places.first, places.end, embedded.shape[1])


def _put(hidden: Tensor, start: Tensor, end: Tensor, length: int) -> Tensor:
    """`hidden` [B,N,d] in rows of `length`, from `start` [B] until `end` [B]; zeros elsewhere."""
    steps = torch.arange(length, device=hidden.device)[None]
    nth = (steps - start[:, None]).clamp(0, hidden.shape[1] - 1)
    within = (steps >= start[:, None]) & (steps < end[:, None])
    return gather(hidden, nth) * within[..., None]
