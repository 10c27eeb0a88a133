"""Mel cepstra of speech: what the distortion and the speaker classifier look at.

Framing, stated once: 16 kHz, 25 ms periodic Hann windows every 10 ms (no padding), 512-point FFT, 40 triangular HTK mel
bands up to 8 kHz. Band powers are floored 60 dB below the utterance's loudest band, and frames at both ends that are
more than 40 dB below its loudest frame are left out; pauses inside stay.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sottovoce.models.spectrum import mel_filters
from sottovoce.runtime.session import Floats

RATE: Final = 16000
FRAME: Final = 400
HOP: Final = 160
FFT: Final = 512
MELS: Final = 40
ORDER: Final = 13
FLOOR: Final = 1e-6
END: Final = 1e-4

Cepstra = NDArray[np.float64]


def spoken_part(audio: Floats) -> Floats:
    """`audio` [S] at 16 kHz without its ends that are over 40 dB below its loudest frame; empty where it is silent."""
    if len(audio) < FRAME or not np.any(audio):
        return audio[:0]
    power = (_frames(audio) ** 2).mean(1)
    loud = np.flatnonzero(power >= END * power.max())
    return audio[loud[0] * HOP : loud[-1] * HOP + FRAME]


def mel_cepstra(audio: Floats) -> Cepstra:
    """Coefficients c1..c13 [F, 13] of each frame of the spoken part of `audio` [S] at 16 kHz; F may be 0.

    log|H| = c0 + Σ c_m·cos(m·ω) on the mel axis, in nepers; c0, the level, is left out.
    """
    part = spoken_part(audio)
    if not len(part):
        return np.zeros((0, ORDER))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    power = np.abs(np.fft.rfft(_frames(part) * window, FFT)) ** 2
    bands = power @ mel_filters(FFT // 2 + 1, MELS, RATE).numpy().T
    log_amplitude = 0.5 * np.log(np.maximum(bands, FLOOR * bands.max()))
    return log_amplitude @ _cosines()


def _frames(audio: Floats) -> NDArray[np.float64]:
    """Overlapping frames [F, 400]."""
    return np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), FRAME)[::HOP]


def _cosines() -> NDArray[np.float64]:
    """Log amplitudes of bands → coefficients: [40, 13]."""
    bands, order = np.arange(MELS)[:, None], np.arange(1, ORDER + 1)
    return 2 / MELS * np.cos(np.pi * order * (bands + 0.5) / MELS)
