"""Files appear whole or not at all; samples become the bytes they should."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.errors import OutputError
from sottovoce.runtime.output import check_output, pcm16, wav, write_wav, written_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "out.wav"
    with written_whole(path) as file:
        file.write(b"sound")
        assert not path.exists()
    assert path.read_bytes() == b"sound"
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.wav"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), written_whole(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_a_full_disk_is_one_line(tmp_path):
    path = tmp_path / "out.wav"
    with pytest.raises(OutputError, match=r"out\.wav cannot be written: No space left"), written_whole(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"), written_whole(tmp_path / "absent" / "out.wav"):
        pass
    with pytest.raises(OutputError, match="not a regular file"), written_whole(tmp_path):
        pass
    for name in ("", ".", ".."):
        with pytest.raises(OutputError, match="not a regular file"):
            check_output(Path(name))
    check_output(tmp_path / "out.wav")


def test_pcm_is_little_endian_and_clipped():
    assert np.frombuffer(pcm16(np.array([0, 1, -1, 2, -2, 0.5], np.float32)), "<i2").tolist() == [
        0, 32767, -32767, 32767, -32767, 16384,
    ]  # fmt: skip


def test_wav_reads_back():
    audio = np.linspace(-1, 1, 100, dtype=np.float32)
    back, rate = soundfile.read(io.BytesIO(wav(audio, 16000)))
    assert rate == 16000
    np.testing.assert_allclose(back, audio, atol=1e-4)


def test_a_wav_file_is_written_as_it_is_made(tmp_path):
    """Each chunk is on its way to the disk before the next one is asked for."""
    sizes = []

    def chunks():
        for _ in range(3):
            sizes.append(file.tell())
            yield np.full(1000, 0.25, np.float32)

    with (tmp_path / "out.wav").open("wb") as file:
        write_wav(file, chunks(), 16000)
    assert sizes == [0, 2044, 4044]
    assert (tmp_path / "out.wav").read_bytes() == wav(np.full(3000, 0.25, np.float32), 16000)
    assert len(wav(np.zeros(0, np.float32), 16000)) == 44


def test_a_wav_file_over_a_full_disk_is_one_line(tmp_path):
    def chunks():
        yield np.zeros(10, np.float32)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match="No space left"), written_whole(tmp_path / "out.wav") as file:
        write_wav(file, chunks(), 16000)
    assert not list(tmp_path.iterdir())
