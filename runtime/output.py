"""Files that are written whole or not at all, and samples as 16-bit PCM."""

import contextlib
import io
import secrets
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from sottovoce.errors import OutputError
from sottovoce.runtime.session import Floats


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends and vanishes when it raises.

    Raises OutputError where the folder is missing, read-only or full.
    """
    check_output(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Raise OutputError where `path` cannot be a file: worth knowing before the work that would fill it."""
    if not path.name or (path.exists() and not path.is_file()):
        raise OutputError(f"{path} is not a regular file: choose another --output")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")


def pcm16(audio: Floats) -> bytes:
    """Samples in [-1, 1] as little-endian signed 16-bit PCM, louder ones clipped."""
    return np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


def write_wav(file: IO[bytes], chunks: Iterable[Floats], sample_rate: int) -> None:
    """Each of `chunks` [S] as soon as it is there, into `file` (seekable) as a mono 16-bit WAV at `sample_rate` Hz."""
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        for chunk in chunks:
            writer.writeframesraw(pcm16(chunk))


def wav(audio: Floats, sample_rate: int) -> bytes:
    """`audio` [S] as a mono 16-bit WAV file."""
    buffer = io.BytesIO()
    write_wav(buffer, [audio], sample_rate)
    return buffer.getvalue()
