"""Files that are written whole or not at all, and samples as 16-bit PCM."""

import contextlib
import io
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from sottovoce.errors import OutputError
from sottovoce.runtime.session import Floats


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends and vanishes when it raises.

    Raises OutputError where the folder is missing, read-only or full.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file: choose another --output, or - for stdout")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def pcm16(audio: Floats) -> bytes:
    """Samples in [-1, 1] as little-endian signed 16-bit PCM, louder ones clipped."""
    return np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


def wav(audio: Floats, sample_rate: int) -> bytes:
    """`audio` [S] as a mono 16-bit WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.frombuffer(pcm16(audio), "<i2"), sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
