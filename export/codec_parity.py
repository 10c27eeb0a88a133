"""Do the codec graphs say what the torch codec says, and does streamed audio equal audio made in one go?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sottovoce.models.codec import Codec
from sottovoce.runtime.manifest import CodecFormat, CodecSpec
from sottovoce.runtime.session import Session, open_session

TOLERANCE = 1e-4
"""Largest difference of two samples, full scale being 1."""

NOISE: dict[CodecFormat, float] = {"fp16": 1e-5, "int8": 0.01}
"""Largest share of the audio's power that rounded weights may add. Seen on the reference voice: 1.6e-8 (78 dB below) in
fp16, 0.003 (25 dB) in int8."""

AGREEMENT = 0.999
"""Share of codes on which both encoders must agree; a value between two codes may round either way."""

MIN_CODES = 1024
"""Codes compared at least, so that one code more or less on the border does not decide the gate."""

CHUNKS = (1, 2, 5, 1, 13, 3, 34)
"""Uneven chunk lengths in codes, used in turn."""


@dataclass(frozen=True)
class CodecReport:
    """Largest sample differences, graph against torch and streamed against whole; share of equal codes.

    `noise` is the power of what the graph adds, as a share of the audio's. `failures` names each gate that was missed;
    empty means passed. `peak` is the largest sample compared.
    """

    codes: int
    peak: float
    decoder_error: float
    stream_error: float
    noise: float
    encoder_agreement: float
    failures: tuple[str, ...]


def check_codec(
    codec: Codec, folder: Path, spec: CodecSpec, sequences: Sequence[Sequence[int]] = (), threads: int = 1
) -> CodecReport:
    """Compare the graphs in `folder` with `codec` on `sequences` of codes (those of speech, if any) and random ones."""
    codes = torch.tensor([_long_enough(sequences, codec.codebook_size)])
    with torch.inference_mode():
        audio = codec.decode(codes, codec.init_states(1))[0]
        wanted = codec.encode(audio).numpy()
    session = open_session(folder / spec.decoder, threads)
    whole, streamed = (_decode(session, spec, codes.numpy(), c) for c in ((codes.shape[1],), CHUNKS))
    decoder_error = float(np.abs(whole - audio.numpy()).max())
    stream_error = float(np.abs(streamed - whole).max())
    agreement = 1.0
    if spec.encoder:
        said = open_session(folder / spec.encoder, threads).run(["codes"], {"audio": audio.numpy()})[0]
        agreement = float((said == wanted).mean()) if said.shape == wanted.shape else 0.0
    noise = float(np.square(whole - audio.numpy()).mean() / audio.square().mean())
    failures = _failures(spec.weights, decoder_error, stream_error, noise, agreement)
    return CodecReport(
        codes.shape[1], float(audio.abs().max()), decoder_error, stream_error, noise, agreement, failures
    )


def _failures(
    weights: CodecFormat, decoder_error: float, stream_error: float, noise: float, agreement: float
) -> tuple[str, ...]:
    """One line per missed gate; NaN misses it too."""
    exact = f"codec decoder differs from torch by {decoder_error:.1e}, allowed {TOLERANCE:.0e}"
    gates = (
        (decoder_error <= TOLERANCE, exact)
        if weights == "fp32"
        else (
            noise <= NOISE[weights],
            f"codec decoder adds {noise:.3g} of the power of torch's audio as noise, allowed {NOISE[weights]:g}",
        ),
        (
            stream_error <= TOLERANCE,
            f"streamed audio differs from whole by {stream_error:.1e}, allowed {TOLERANCE:.0e}",
        ),
        (
            agreement >= AGREEMENT,
            f"codec encoder agrees with torch on {agreement:.2%} of codes, wanted {AGREEMENT:.1%}",
        ),
    )
    return tuple(line for passed, line in gates if not passed)


def _long_enough(sequences: Sequence[Sequence[int]], codebook_size: int) -> list[int]:
    """The sequences joined and, where they are short, random codes up to MIN_CODES."""
    codes = [code for sequence in sequences for code in sequence]
    missing = max(0, MIN_CODES - len(codes))
    return codes + np.random.default_rng(0).integers(0, codebook_size, missing).tolist()


def _decode(session: Session, spec: CodecSpec, codes: NDArray[np.int64], chunks: Sequence[int]) -> NDArray[np.float32]:
    """Audio [1, N·hop] of `codes` [1, N], fed in chunks of the given lengths in turn, states carried along."""
    states = {state.name: np.zeros(state.shape, np.float32) for state in spec.states}
    pieces = []
    for piece in _split(codes, chunks):
        audio, *following = session.run(None, {"codes": piece, **states})
        states = dict(zip(states, following, strict=True))
        pieces.append(audio)
    return np.concatenate(pieces, axis=1)


def _split(codes: NDArray[np.int64], chunks: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """`codes` [1, N] in pieces of the given lengths, used in turn."""
    start = turn = 0
    while start < codes.shape[1]:
        stop = start + chunks[turn % len(chunks)]
        yield codes[:, start:stop]
        start, turn = stop, turn + 1
