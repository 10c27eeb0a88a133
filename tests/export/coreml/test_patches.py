"""`export --target coreml` of a patch voice: as a command, through the interpreter, and by the runtime's own loop."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.errors import ContractError, TextError
from sottovoce.export import plan
from sottovoce.export.coreml.bundle_verify import layout_of, open_driver
from sottovoce.export.coreml.drive import CoreDriver
from sottovoce.export.coreml.interpreted import InterpretedEngine
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import Bundle, check_files, load_bundle
from sottovoce.runtime.contract import check_supported, token_ids
from sottovoce.runtime.coreml import CoremlDecoder
from sottovoce.runtime.coreml_patch import CoremlPatchSource
from sottovoce.runtime.manifest import (
    CoremlPatchSpec,
    CoremlSpec,
    HeadSpec,
    IoSpec,
    Manifest,
    SamplingSpec,
    read_manifest,
)
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
    return load_bundle(folder, threads=1, open_engine=InterpretedEngine)


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
    prefix, source = random_prefix(bundle, text, clip, text), open_source(bundle, 64)
    assert isinstance(source, CoremlPatchSource)
    # Past the 32 slots of the compressor's ring, and into the middle of a patch.
    follows_the_driver(source, driver, bundle, prefix, 47 if clip == 21 else SIZE + 2)
    assert source.nbytes == manifest.cache.bytes


def follows_the_driver(
    source: CoremlPatchSource, driver: CoreDriver, bundle: Bundle, prefix: tuple[int, ...], count: int
) -> None:
    """Every logit that the runtime draws `count` tokens from is the driver's, bit for bit."""
    seen: list[Any] = []
    draw = source.extractor.logits
    source.extractor.logits = lambda x: seen.append(draw(x)) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    tokens = list(Generation(source, Utterance(prefix, GREEDY, 0, count, count)))
    assert len(tokens) == count
    wanted = [driver.prefill(prefix), *(driver.step(token) for token in tokens[:-1])]
    for ours, theirs in zip(seen[:count], wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
        CoremlDecoder(folder, replace(manifest, coreml=spec), InterpretedEngine)
    for name in ("start", "extract_positions", "compress_positions"):
        other: dict[str, Any] = {name: manifest.coreml.codec_values}
        spec = replace(manifest.coreml, patch=replace(manifest.coreml.patch, **other))
        with pytest.raises(ContractError, match="is needed"):
            CoremlDecoder(folder, replace(manifest, coreml=spec), InterpretedEngine)


def without(io: IoSpec, name: str) -> IoSpec:
    """`io` without the tensors called so."""
    return IoSpec(*(tuple(t for t in tensors if not t.name.startswith(name)) for tensors in (io.inputs, io.outputs)))


def resized(io: IoSpec, name: str, shape: tuple[int | str, ...]) -> IoSpec:
    """`io` with another shape of the inputs called so."""
    return IoSpec(tuple(replace(t, shape=shape) if t.name == name else t for t in io.inputs), io.outputs)


Changes = Callable[[Manifest, CoremlSpec, CoremlPatchSpec], dict[str, Any]]
PLANTED: dict[str, Changes] = {
    "does not fit extractor": lambda m, c, p: {"group": {2: {"window": 2}}},
    "compressor has a prefix": lambda m, c, p: {"group": {1: {"prefix": 3}}},
    "past_key_values_2_key is in only one": lambda m, c, p: {"group": {0: {"layers": 3}}},
    "backbone has more layers than inputs": lambda m, c, p: {"group": {0: {"layers": 1 << 24}}},
    "or is not fp16": lambda m, c, p: {"group": {0: {"dtype": "fp32"}}},
    "past_key_values_0_key is in only one": lambda m, c, p: {"coreml": {"stateful": True}},
    "output told_0_key is in only one": lambda m, c, p: {"io": without(m.io, "told_")},
    "other than the head's 49": lambda m, c, p: {"patch": {"extract": without(p.extract, "logits")}},
    "prefill: input attention_bias is in": lambda m, c, p: {
        "coreml": {"prefill": without(c.prefill, "attention_bias")}
    },
    "inputs_embeds of four": lambda m, c, p: {
        "patch": {"compress": resized(p.compress, "inputs_embeds", (1, 64, 1, "T"))}
    },
    "fit extractor or compressor": lambda m, c, p: {
        "patch": {"compress": resized(p.compress, "inputs_embeds", (1, 64, 1, 2))}
    },
    "no input inputs_embeds": lambda m, c, p: {
        "patch": {"compress": resized(p.compress, "inputs_embeds", (1, 64, 1, 1 << 40))}
    },
    "io has no input": lambda m, c, p: {"io": resized(m.io, "inputs_embeds", ())},
    "compress: input token_share is": lambda m, c, p: {
        "patch": {"compress": resized(p.compress, "token_share", (1, 1, 1, 31))}
    },
    "other than the head's 5 ids": lambda m, c, p: {"head": HeadSpec(((0, 5),))},
    "speaker is 32, 0 or 64": lambda m, c, p: {"spec": {"speaker": 32}},
    "input speaker is in only one": lambda m, c, p: {"spec": {"speaker": 0}},
}


@pytest.mark.parametrize("said", PLANTED)
def test_a_manifest_is_held_to_the_contract_before_a_package_is_opened(said: str, folder: Path) -> None:
    def opened(*_: Any) -> Any:
        pytest.fail("the package was opened")

    manifest = read_manifest(folder)
    coreml, spec = manifest.coreml, manifest.patch
    assert coreml is not None
    assert coreml.patch is not None
    assert spec is not None
    patch = coreml.patch
    changes = PLANTED[said](manifest, coreml, patch)
    groups = [replace(g, **changes.get("group", {}).get(number, {})) for number, g in enumerate(manifest.cache.groups)]
    manifest = replace(
        manifest,
        io=changes.get("io", manifest.io),
        head=changes.get("head", manifest.head),
        cache=replace(manifest.cache, groups=tuple(groups)),
        patch=replace(spec, **changes.get("spec", {})),
        coreml=replace(coreml, patch=replace(patch, **changes.get("patch", {})), **changes.get("coreml", {})),
    )
    with pytest.raises(ContractError, match=said):
        CoremlDecoder(folder, manifest, opened)


def test_positions_end(bundle: Bundle) -> None:
    source = open_source(bundle, 64)
    source.begin(Utterance(random_prefix(bundle, 3, 9, 1), GREEDY, 0, 99, 99))
    source.max_position = source.position  # type: ignore[misc]
    with pytest.raises(TextError, match="past the graph's last one"):
        source.step()


def test_a_bundle_whose_caches_are_states(voice: Path, tmp_path: Path) -> None:
    """`--stateful`, from the command to the runtime's loop: each net has states of its own."""
    bundle = load_bundle(exported(voice, tmp_path / "b", "--stateful"), threads=1, open_engine=InterpretedEngine)
    manifest = bundle.manifest
    assert manifest.coreml is not None
    assert manifest.coreml.patch is not None
    assert manifest.cache.bytes == sum(group.nbytes for group in manifest.cache.groups)
    functions = (manifest.io, manifest.coreml.prefill, manifest.coreml.patch.compress, manifest.coreml.patch.extract)
    assert not [t for io in functions for t in (*io.inputs, *io.outputs) if t.name.startswith(("past", "present"))]
    driver = open_driver(bundle.folder, layout_of(manifest, Voice.open(voice)), manifest)
    source = open_source(bundle, 64)
    assert isinstance(source, CoremlPatchSource)
    assert source.nbytes == manifest.cache.bytes
    for text, clip, count in ((3, 21, 47), (40, 9, 6)):  # the second finds states that the first has left
        driver.restart()
        follows_the_driver(source, driver, bundle, random_prefix(bundle, text, clip, text), count)


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
    manifest = read_manifest(tmp_path / "b")
    decoder, layout = CoremlDecoder(tmp_path / "b", manifest, InterpretedEngine), layout_of(manifest, Voice.open(voice))
    assert manifest.prompt is not None
    assert manifest.patch is not None
    speaking: Any = SimpleNamespace(prompt=manifest.prompt)
    bundle: Any = SimpleNamespace(manifest=manifest, voice=speaking, token_ids=token_ids(manifest.head))
    source = CoremlPatchSource(bundle, decoder, manifest.patch)
    follows_the_driver(source, open_driver(tmp_path / "b", layout, manifest), bundle, random_prefix(bundle, 3, 8, 0), 8)
