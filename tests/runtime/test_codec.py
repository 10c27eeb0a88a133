"""Streaming decode: the same samples whatever the chunks, the delay dropped and the tail flushed."""

from dataclasses import replace

import numpy as np
import pytest

from sottovoce.errors import BundleError, ContractError
from sottovoce.runtime import codec as module
from sottovoce.runtime.codec import CodecStream, encode
from tests.runtime.fakes import DELAY, HOP, FakeEncoder, fake_bundle, sound

CODES = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [2, 4, 5], [10, 1], [0, 11]])
@pytest.mark.parametrize("last_in_finish", [True, False])
def test_chunks_make_no_difference(tmp_path, sizes, last_in_finish):
    stream = CodecStream(fake_bundle(tmp_path / "b").voice)
    pieces, start = [], 0
    for number, size in enumerate(sizes):
        chunk = CODES[start : start + size]
        start += size
        last = number == len(sizes) - 1
        if last and last_in_finish:
            pieces.append(stream.finish(chunk))
            break
        pieces.append(stream.decode(chunk))
    if not last_in_finish:
        pieces.append(stream.finish([]))
    np.testing.assert_allclose(np.concatenate(pieces), sound(CODES))


def test_nothing_comes_of_nothing(tmp_path):
    assert len(CodecStream(fake_bundle(tmp_path / "b").voice).finish([])) == 0


def test_the_first_samples_wait_for_the_delay(tmp_path):
    stream = CodecStream(fake_bundle(tmp_path / "b").voice)
    assert len(stream.decode([1])) == 0
    assert len(stream.decode([2, 3])) == 3 * HOP - DELAY


def test_encode_undoes_decode(tmp_path, monkeypatch):
    bundle = fake_bundle(tmp_path / "b")
    monkeypatch.setattr(module, "open_session", lambda path, threads: FakeEncoder())
    assert encode(bundle, np.append(sound(CODES), np.zeros(HOP - 1, np.float32))) == tuple(CODES)
    with pytest.raises(ContractError, match=r"codec_encoder\.onnx gives code 12"):
        encode(bundle, sound([12]))


def test_no_encoder(tmp_path):
    bundle = fake_bundle(tmp_path / "b")
    voice = replace(bundle.voice, codec=replace(bundle.voice.codec, encoder=None))
    with pytest.raises(BundleError, match="has no codec encoder"):
        encode(replace(bundle, speaking=voice), sound(CODES))
