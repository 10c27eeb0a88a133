"""Files appear whole or not at all; samples become the bytes they should."""

import errno
import io
import os

import numpy as np
import pytest
import soundfile

from sottovoce.errors import OutputError
from sottovoce.runtime.output import pcm16, wav, written_whole


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
    with pytest.raises(OutputError, match="No such file"), written_whole(tmp_path / "absent" / "out.wav"):
        pass
    with pytest.raises(OutputError, match="not a regular file"), written_whole(tmp_path):
        pass


def test_pcm_is_little_endian_and_clipped():
    assert np.frombuffer(pcm16(np.array([0, 1, -1, 2, -2, 0.5], np.float32)), "<i2").tolist() == [
        0, 32767, -32767, 32767, -32767, 16384,
    ]  # fmt: skip


def test_wav_reads_back():
    audio = np.linspace(-1, 1, 100, dtype=np.float32)
    back, rate = soundfile.read(io.BytesIO(wav(audio, 16000)))
    assert rate == 16000
    np.testing.assert_allclose(back, audio, atol=1e-4)
