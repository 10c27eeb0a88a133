"""`export --target coreml` of a patch voice: as a command, through the interpreter, and by the runtime's own loop."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.errors import ContractError, TextError
from sottovoce.export import plan
from sottovoce.export.coreml.bundle_verify import layout_of, open_driver
from sottovoce.export.coreml.interpreted import open_interpreted
from sottovoce.export.coreml.patch_drive import CorePatchDriver
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import Bundle, check_files, load_bundle
from sottovoce.runtime.contract import check_supported
from sottovoce.runtime.coreml import CoremlDecoder
from sottovoce.runtime.coreml_patch import CoremlPatchSource
from sottovoce.runtime.manifest import SamplingSpec, read_manifest
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.source import open_source
from sottovoce.runtime.speak import speak
from sottovoce.runtime.utterance import Generation, Utterance
from tests import tiny
from tests.export.coreml.voices import SIZES, exported

WINDOW, SIZE = 4, 4
GREEDY = SamplingSpec(temperature=0)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices") / "patched"
    return tiny.save_patch_voice(folder, SIZE, SIZES, scale=0.08, prefix=100, window=WINDOW)


@pytest.fixture(scope="module")
def folder(voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(voice, tmp_path_factory.mktemp("bundles") / "patched")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder, threads=1, open_engine=open_interpreted)


def test_a_bundle_is_whole(folder: Path) -> None:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    groups = [(group.name, group.unit, group.slots % 32, group.dtype) for group in manifest.cache.groups]
    units = ("patch", "token", "token")
    assert groups == [
        (name, unit, 0, "fp16") for name, unit in zip(("backbone", "compressor", "extractor"), units, strict=True)
    ]
    assert manifest.cache.bytes == 2 * sum(group.nbytes for group in manifest.cache.groups)
    assert manifest.patch is not None
    assert manifest.coreml is not None
    assert manifest.coreml.patch is not None
    assert not [spec for spec in manifest.io.outputs if spec.name.startswith("logits")]
    parity = json.loads((folder / "parity.json").read_text())
    (found,) = parity["decoder"]
    assert found["wraps"] > 4
    assert found["weight_error"] < 2**-10  # every matrix was found: one that is missing counts as far off
    assert not [line for line in parity["lint"] if "violation" in line]


def random_prefix(bundle: Bundle, text: int, clip: int, seed: int) -> tuple[int, ...]:
    """Words, a clip, and a mark."""
    random, prompt = np.random.default_rng(seed), bundle.voice.prompt
    words = random.integers(tiny.TEXT_OFFSET, tiny.TEXT_OFFSET + 8, text).tolist()
    codes = (prompt.code_offset + random.integers(0, prompt.code_count, clip)).tolist()
    return (*words, *codes, words[-1])


@pytest.mark.parametrize(("text", "clip"), [(1, 1), (3, 21), (40, 24), (33, 0)])
def test_the_loop_is_the_verified_one(text: int, clip: int, bundle: Bundle, voice: Path) -> None:
    """Two loops written apart say the same: the runtime's, and the one that verification drives packages with."""
    manifest = bundle.manifest
    driver = open_driver(bundle.folder, layout_of(manifest, Voice.open(voice)), manifest)
    assert isinstance(driver, CorePatchDriver)
    prefix = random_prefix(bundle, text, clip, text)
    said = (SIZE * (WINDOW + 2) if clip else SIZE) + 2
    source = open_source(bundle, 64)
    assert isinstance(source, CoremlPatchSource)
    tokens = list(Generation(source, Utterance(prefix, GREEDY, 0, said, said)))
    logits, ids, stop = driver.prefill(prefix), bundle.token_ids, np.isin(bundle.token_ids, bundle.voice.prompt.stop)
    for token in tokens:
        assert token == ids[int(np.where(stop, -np.inf, logits).argmax())]
        logits = driver.step(token)
    assert len(tokens) == said
    assert source.nbytes == manifest.cache.bytes


def test_nothing_is_left_of_the_last_utterance(bundle: Bundle) -> None:
    def says(source: Any, text: int, clip: int) -> list[int]:
        prefix = random_prefix(bundle, text, clip, 5)
        return list(Generation(source, Utterance(prefix, SamplingSpec(), 3, 20, 20)))

    used = open_source(bundle, 64)
    says(used, 40, 24)
    assert says(used, 3, 9) == says(open_source(bundle, 64), 3, 9)


def test_a_bundle_speaks(bundle: Bundle) -> None:
    speech = speak(bundle, "abc de.", find_prompt(bundle, "ada"), seed=3)
    samples, stats = speech.whole(), speech.stats()
    assert len(samples) == sum(len(s.codes) for s in stats.sentences) * bundle.voice.codec.hop > 0
    np.testing.assert_array_equal(speak(bundle, "abc de.", find_prompt(bundle, "ada"), seed=3).whole(), samples)


def test_lengths_are_checked(bundle: Bundle) -> None:
    source = open_source(bundle, 64)
    for prefix in ((), (tiny.TEXT_OFFSET,) * 200):
        with pytest.raises(TextError, match="prefix"):
            source.begin(Utterance(prefix, GREEDY, 0, 0, 9))


def test_contradictions_are_refused(folder: Path) -> None:
    manifest = read_manifest(folder)
    check_supported(manifest)
    assert manifest.coreml is not None
    assert manifest.coreml.patch is not None
    with pytest.raises(ContractError, match=r"coreml\.patch and patch"):
        check_supported(replace(manifest, coreml=replace(manifest.coreml, patch=None)))
    spec = replace(manifest.coreml, patch=replace(manifest.coreml.patch, compress_positions=None))
    with pytest.raises(ContractError, match="contradicts patch"):
        CoremlDecoder(folder, replace(manifest, coreml=spec), open_interpreted)
    for name in ("start", "extract_positions", "compress_positions"):
        other: dict[str, Any] = {name: manifest.coreml.codec_values}
        spec = replace(manifest.coreml, patch=replace(manifest.coreml.patch, **other))
        with pytest.raises(ContractError, match="is needed"):
            CoremlDecoder(folder, replace(manifest, coreml=spec), open_interpreted)


def test_states_are_refused(voice: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["export", str(voice), "-o", str(tmp_path / "b"), "--target", "coreml", "--stateful", "--threads", "1"]
    assert main(command) == 2
    assert "--stateful knows voices of tokens alone" in capsys.readouterr().err


@pytest.mark.parametrize("nets", [{"compressor": "mean"}, {"speaker": "none"}])
def test_ablations_are_exported_too(nets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {**SIZES, "num_hidden_layers": 1}
    voice = tiny.save_patch_voice(tmp_path / "voice", 3, sizes, nets, 0.08, prefix=60, window=3)
    monkeypatch.setattr(plan, "codec_graphs", lambda *_: {})
    monkeypatch.setattr("sottovoce.export.coreml.assemble.core_codec.write_codec", lambda *_: None)
    monkeypatch.setattr("sottovoce.export.coreml.bundle_verify._codec", lambda *_: None)
    monkeypatch.setattr("sottovoce.export.coreml.bundle_verify._lint", lambda *_: ())
    options = ["--target", "coreml", "--weights", "fp16", "--threads", "1"]
    assert main(["export", str(voice), "-o", str(tmp_path / "b"), *options]) == 0
