"""The runtime's Core ML backend with the interpreter in Apple's place: its loop, its codec, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sottovoce.__main__ import main
from sottovoce.errors import BundleError, ContractError, OptionError, TextError
from sottovoce.export.coreml.bundle_verify import layout_of
from sottovoce.export.coreml.drive import CoreDriver
from sottovoce.export.coreml.interpreted import InterpretedEngine
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.apple import opener
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.contract import check_supported
from sottovoce.runtime.coreml import CoremlCodec, CoremlDecoder, CoremlStream
from sottovoce.runtime.decode import open_stream
from sottovoce.runtime.manifest import Manifest, read_manifest
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import speak
from tests import tiny
from tests.export.coreml.voices import SIZES


@pytest.fixture(scope="module")
def manifest(core_bundle: Path) -> Manifest:
    return read_manifest(core_bundle)


@pytest.fixture(scope="module")
def stream(core_bundle: Path, manifest: Manifest) -> CoremlStream:
    return CoremlStream(CoremlDecoder(core_bundle, manifest, InterpretedEngine), manifest)


@pytest.mark.parametrize("count", [1, 2, 32, 33, 34, 70])
def test_the_loop_is_the_verified_one(
    count: int, stream: CoremlStream, core_bundle: Path, core_voice: Path, manifest: Manifest
) -> None:
    """Two loops written apart agree: the runtime's, and the one that verification drives packages with."""
    group = manifest.cache.groups[0]
    layout = layout_of(manifest, Voice.open(core_voice))
    other = CoreDriver(core_bundle, layout, group.prefix, group.window)
    random = np.random.default_rng(count)
    prefix = random.integers(0, 48, count).tolist()
    np.testing.assert_array_equal(stream.prefill(prefix), other.prefill(prefix))
    assert stream.position == count
    for token in random.integers(0, 48, group.window + 3 if count == 33 else 2).tolist():
        np.testing.assert_array_equal(stream.step(token), other.step(token))


def test_nothing_is_left_of_the_last_utterance(stream: CoremlStream) -> None:
    first = [stream.prefill([1, 2, 3]).copy(), stream.step(4).copy()]
    stream.prefill(range(40))
    for token in range(20):
        stream.step(token)
    again = [stream.prefill([1, 2, 3]), stream.step(4)]
    np.testing.assert_array_equal(first, again)


def test_lengths_are_checked(stream: CoremlStream) -> None:
    for ids in ([], [0] * (stream.cache.prefix + 1)):
        with pytest.raises(TextError, match="prefix"):
            stream.prefill(ids)
    stream.prefill([0])
    stream.max_position = 2
    stream.step(0)
    with pytest.raises(TextError, match="past the graph's last one"):
        stream.step(0)


def test_the_codec_takes_any_number_of_codes(core_bundle: Path, core_voice: Path, manifest: Manifest) -> None:
    assert manifest.codec is not None
    assert manifest.coreml is not None
    session = CoremlCodec(core_bundle, manifest.codec, manifest.coreml, InterpretedEngine)
    codec = Codec.load(core_voice / "codec")
    codes = np.random.default_rng(0).integers(0, 48, (1, 70))
    wanted = codec.decode(torch.tensor(codes), codec.init_states(1))[0].detach().numpy()
    states = {spec.name: np.zeros(spec.shape, np.float32) for spec in manifest.codec.states}
    pieces = []
    for chunk in np.split(codes, [3, 36, 69], 1):
        audio, *after = session.run(None, {"codes": chunk, **states})
        states = dict(zip(states, after, strict=True))
        pieces.append(audio)
    found = np.concatenate(pieces, 1)
    assert found.shape == wanted.shape
    assert np.sqrt(np.square(found - wanted).mean()) < 0.01 * np.abs(wanted).max()


def test_contradictions_are_refused(core_bundle: Path, manifest: Manifest) -> None:
    with pytest.raises(ContractError, match="other sizes"):
        CoremlDecoder(core_bundle, replace(manifest, max_position=10_000), InterpretedEngine)
    assert manifest.coreml is not None
    assert manifest.codec is not None
    with pytest.raises(ContractError, match="a codec function of one code"):
        CoremlCodec(core_bundle, manifest.codec, replace(manifest.coreml, codec_codes=(32,)), InterpretedEngine)


def test_numbers_that_make_no_sense_are_refused(manifest: Manifest) -> None:
    assert manifest.coreml is not None
    check_supported(manifest)
    for changes in ({"prefill_tokens": 0}, {"codec_codes": (1, 0)}):
        with pytest.raises(ContractError, match="coreml"):
            check_supported(replace(manifest, coreml=replace(manifest.coreml, **changes)))
    with pytest.raises(ContractError, match="contradicts coreml"):
        check_supported(replace(manifest, coreml=None))


def test_apple_is_on_macos_alone(core_bundle: Path, manifest: Manifest, monkeypatch: Any) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(BundleError, match="runs on macOS"):
        CoremlDecoder(core_bundle, manifest, opener())
    with pytest.raises(OptionError, match="compute unit 'NPU'"):
        opener("NPU")(core_bundle, ("decode",))


def test_a_bundle_speaks_through_any_engine(core_bundle: Path) -> None:
    """`say` on macOS takes this way, with Apple's engine; chunks and lengths are those of any bundle."""
    bundle = load_bundle(core_bundle, threads=1, open_engine=InterpretedEngine)
    speech = speak(bundle, "abc de.", find_prompt(bundle, "ada"), seed=3)
    samples, stats = speech.whole(), speech.stats()
    said = [code for sentence in stats.sentences for code in sentence.codes]
    assert len(samples) == len(said) * bundle.voice.codec.hop > 0
    assert np.isfinite(samples).all()
    assert stats.cache_bytes == bundle.manifest.cache.bytes
    again = speak(bundle, "abc de.", find_prompt(bundle, "ada"), seed=3)
    np.testing.assert_array_equal(again.whole(), samples)


def test_a_core_ml_bundle_is_refused_off_macos_by_name(core_bundle: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(BundleError, match="runs on macOS"):
        load_bundle(core_bundle, threads=1)


def test_a_bundle_whose_caches_are_states(tmp_path: Path) -> None:
    """`--stateful`, from the command to the runtime's loop."""
    tiny.save_decoder(tmp_path / "bare", tiny.hf_config("qwen2", **SIZES, num_hidden_layers=1))
    options = ("--decoder-only", "--prefix", "20", "--window", "12", "--head-ids", "0:49", "--weights", "fp16")
    command = ["export", str(tmp_path / "bare"), "-o", str(tmp_path / "b"), "--target", "coreml", "--stateful"]
    assert main([*command, *options, "--threads", "1"]) == 0
    bundle = load_bundle(tmp_path / "b", threads=1, open_engine=InterpretedEngine)
    manifest = bundle.manifest
    assert manifest.coreml is not None
    assert (manifest.coreml.stateful, manifest.cache.aliased) == (True, True)
    assert manifest.cache.bytes == manifest.cache.groups[0].nbytes
    assert not [spec for spec in manifest.io.inputs if spec.name.startswith("past_key_values")]
    stream = open_stream(bundle)
    assert isinstance(stream, CoremlStream)
    layout = layout_of(manifest, Voice.open(tmp_path / "bare", decoder_only=True))
    other = CoreDriver(tmp_path / "b", layout, manifest.cache.groups[0].prefix, 12)
    for prefix in ([5, 6, 7], [8]):  # the second finds states that the first has left
        np.testing.assert_array_equal(stream.prefill(prefix), other_prefill(other, prefix))
        for token in range(15):
            np.testing.assert_array_equal(stream.step(token), other.step(token))


def other_prefill(driver: CoreDriver, prefix: list[int]) -> np.ndarray:
    """The verifying driver's, from the start."""
    driver.restart()
    return driver.prefill(prefix)
