"""Does the exported codec sound as the torch codec does?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sottovoce.export.coreml.codec import VALUES, function_name, state_specs
from sottovoce.export.coreml.kinds import Kind
from sottovoce.export.coreml.verify import psnr
from sottovoce.models.codec import Codec

PSNR = 40.0
"""Gate: peak signal over root mean square noise, dB, of audio in half precision. Below that the noise of a phase that
half precision cannot hold becomes audible in silence."""


@dataclass(frozen=True)
class CoreCodecReport:
    """`psnr` in dB over all samples, `largest_error` of a sample, `peak` the loudest one; `failures` words missed
    gates."""

    codes: int
    runs: int
    peak: float
    largest_error: float
    psnr: float
    failures: tuple[str, ...]


def check_codec(codec: Codec, folder: Path, kind: Kind, sizes: Sequence[int], codes: Sequence[int]) -> CoreCodecReport:
    """Decode `codes` with what `kind` has in `folder`, long runs then single ones, and with torch in one go."""
    wanted = codec.decode(torch.tensor([codes]), codec.init_states(1))[0].detach().numpy()[0]
    audio, runs = _decode(codec, folder, kind, sizes, codes)
    error = audio - wanted
    rms, peak = float(np.sqrt(np.square(error, dtype=np.float64).mean())), float(np.abs(wanted).max())
    ratio = psnr(rms, peak)
    return CoreCodecReport(len(codes), runs, peak, float(np.abs(error).max()), ratio, tuple(_failures(ratio)))


def _failures(ratio: float) -> Iterator[str]:
    """A line where the gate is missed; NaN misses it too."""
    if not ratio >= PSNR:
        yield f"codec audio has {ratio:.1f} dB PSNR against torch, at least {PSNR:.0f} is asked for"


def _decode(
    codec: Codec, folder: Path, kind: Kind, sizes: Sequence[int], codes: Sequence[int]
) -> tuple[np.ndarray, int]:
    """Samples [N · hop] float32, and how many runs it took."""
    engine = kind.open_engine(folder / kind.codec, [function_name(size) for size in sizes])
    table = np.load(folder / VALUES, mmap_mode="r")
    states = {spec.name: np.zeros(spec.shape, np.float16) for spec in state_specs(codec)}
    pieces, start = [], 0
    while start < len(codes):
        size = max(size for size in sizes if size <= len(codes) - start)
        values = np.asarray(table[list(codes[start : start + size])]).T[None, :, None].copy()
        outputs = engine.predict(function_name(size), {"values": values, **states}, None)
        states = {name: outputs[f"next_{name}"] for name in states}
        pieces.append(outputs["audio"][0, :, 0].T.reshape(-1).astype(np.float32))
        start += size
    return np.concatenate(pieces), len(pieces)
