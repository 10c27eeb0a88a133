"""Codes ↔ audio through the bundle's codec graphs; decoding is streamed with explicit state, in constant memory."""

from collections.abc import Sequence

import numpy as np

from sottovoce.errors import BundleError, ContractError
from sottovoce.runtime.bundle import Bundle, Voice
from sottovoce.runtime.contract import check_encoder
from sottovoce.runtime.paths import inside
from sottovoce.runtime.session import Array, Floats, open_session


class CodecStream:
    """Decodes the codes of one utterance chunk by chunk: N codes give N × hop samples in all, whatever the chunks.

    The graph's output lags by `delay` samples: they are dropped at the start and `finish` gets the last ones out.
    """

    def __init__(self, voice: Voice) -> None:
        """Start with states of zeros."""
        self.spec = voice.codec
        self._session = voice.codec_session
        self._outputs = ["audio", *(f"next_{s.name}" for s in self.spec.states)]
        self._states: list[Array] = [np.zeros(s.shape, np.float32) for s in self.spec.states]
        self._lag = self.spec.delay
        self._owed = 0

    def decode(self, codes: Sequence[int]) -> Floats:
        """Samples [≤ N × hop] float32 that the next N `codes` complete."""
        if not codes:
            return np.zeros(0, np.float32)
        self._owed += len(codes) * self.spec.hop
        return self._run(codes)

    def finish(self, codes: Sequence[int]) -> Floats:
        """The rest of the utterance, whose last codes are `codes`; nothing may be decoded after it."""
        self._owed += len(codes) * self.spec.hop
        tail = [*codes, *[self.spec.flush_code] * self.spec.flush_codes]
        return self._run(tail) if self._owed else np.zeros(0, np.float32)

    def _run(self, codes: Sequence[int]) -> Floats:
        """Samples of `codes` once the lag is dropped, at most as many as are owed."""
        feeds: dict[str, Array] = {s.name: a for s, a in zip(self.spec.states, self._states, strict=True)}
        feeds["codes"] = np.array([codes], np.int64)
        audio, *self._states = self._session.run(self._outputs, feeds)
        samples: Floats = audio[0, self._lag :][: self._owed]
        self._lag = max(0, self._lag - audio.shape[1])
        self._owed -= len(samples)
        return samples


def encode(bundle: Bundle, audio: Floats) -> tuple[int, ...]:
    """Codes of a clip [S] float32 at the codec's sample rate; what is left over of the last hop is dropped.

    The encoder graph is opened for this call alone: it is needed once per clip and would otherwise stay in memory.
    Raises BundleError for a bundle without encoder, ContractError where the graph gives codes the voice does not have.
    """
    voice = bundle.voice
    name = voice.codec.encoder
    if name is None:
        raise BundleError(f"{bundle.folder} has no codec encoder: choose one of its own prompts")
    session = open_session(inside(bundle.folder, name), bundle.threads)
    check_encoder(name, session)
    whole = len(audio) - len(audio) % voice.codec.hop
    codes = session.run(["codes"], {"audio": audio[None, :whole]})[0][0]
    if codes.size and not 0 <= codes.min() <= codes.max() < voice.prompt.code_count:
        raise ContractError(f"{name} gives code {codes.max()}, but the voice has {voice.prompt.code_count}")
    return tuple(codes.tolist())
