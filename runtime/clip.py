"""A reference clip: an audio file → mono float32 at the codec's sample rate."""

from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from sottovoce.errors import MissingExtraError, PromptError
from sottovoce.runtime.session import Floats

SILENCE: Final = 1e-3
"""Peak below which a clip is taken for silence (-60 dB of full scale)."""


def read_clip(path: Path, sample_rate: int, max_samples: int) -> Floats:
    """The file at `path` as a prompt: see `read_audio`, S ≤ `max_samples`, not silent.

    Raises PromptError for a clip that is silent, or too long (says how long is allowed).
    """
    longest = max_samples / sample_rate
    audio = read_audio(path, sample_rate, longest)
    if is_silent(audio):
        raise PromptError(f"{path} is silent: a prompt needs clear speech, up to {longest:.2f} s of it")
    return audio[:max_samples]


def read_audio(path: Path, sample_rate: int, longest: float) -> Floats:
    """The file at `path` as [S] float32 at `sample_rate` Hz, channels averaged, of at most `longest` seconds.

    Raises PromptError for a file that is missing, not audio, longer, or holds samples that are not numbers, and
    MissingExtraError where another sample rate needs soxr.
    """
    if not path.is_file():
        raise PromptError(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            check_length(path, file.frames / rate, longest)
            audio = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: a name like clip.raw says no format
        raise PromptError(f"{path} is not audio that soundfile reads (WAV, FLAC, OGG, MP3): {error}") from None
    if not np.isfinite(audio).all():
        raise PromptError(f"{path} holds samples that are not numbers: convert it again")
    return resample(audio, rate, sample_rate)


def is_silent(audio: Floats) -> bool:
    """Whether `audio` [S] has no sample above SILENCE, or no sample at all."""
    return not audio.size or bool(np.abs(audio).max() < SILENCE)


def levelled(audio: Floats, level: float | None) -> Floats:
    """`audio` [S] scaled so that its RMS from first to last loud sample (3 % of the peak) is `level`; None leaves it.

    Codecs are trained at one level, and hear another voice at another. Peaks stay below 0.95. Not for silence.
    """
    if level is None:
        return audio
    loud = np.flatnonzero(np.abs(audio) > 0.03 * np.abs(audio).max())
    rms = float(np.sqrt(np.mean(np.square(audio[loud[0] : loud[-1] + 1], dtype=np.float64))))
    return audio * np.float32(min(level / rms, 0.95 / float(np.abs(audio).max())))


def check_length(path: Path, seconds: float, allowed: float) -> None:
    """Raise PromptError where a clip of `seconds` is longer than `allowed` (and a rounding of the sample count)."""
    if seconds > allowed + 0.001:
        raise PromptError(f"{path} is {seconds:.2f} s long, at most {allowed:.2f} s is taken: cut the clip")


def resample(audio: Floats, rate: int, wanted: int) -> Floats:
    """`audio` [S] from `rate` to `wanted` Hz; raises MissingExtraError where soxr is needed and absent."""
    if rate == wanted:
        return audio
    try:
        import soxr
    except ImportError:
        raise MissingExtraError("soxr", "audio") from None
    return np.asarray(soxr.resample(audio, rate, wanted), np.float32)
