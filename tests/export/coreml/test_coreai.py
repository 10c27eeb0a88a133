"""`export --target coreai`: an asset that Core AI's own runtime runs here, verified, spoken with, equal each time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.errors import BundleError, ContractError
from sottovoce.export.coreml import modules
from sottovoce.export.coreml.bundle_verify import read_core_parity
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.coreai import AIEngine
from sottovoce.runtime.coreml_contract import check_coreml
from sottovoce.runtime.manifest import read_manifest
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import speak
from tests import tiny
from tests.export.coreml.voices import SIZES

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed: pip install 'sottovoce[coreai]'")

BARE = ("--decoder-only", "--prefix", "20", "--window", "12", "--head-ids", "0:49")


def export(voice: Path, target: Path, *options: str) -> int:
    """Run the command; its exit status."""
    return main(["export", str(voice), "-o", str(target), "--target", "coreai", "--threads", "1", *options])


@pytest.fixture(scope="module")
def asset_bundle(core_voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny voice as assets."""
    target = tmp_path_factory.mktemp("coreai") / "bundle"
    assert export(core_voice, target) == 0
    return target


def test_a_bundle_is_verified_by_core_ai_itself(asset_bundle: Path, core_voice: Path, capsys: Any) -> None:
    manifest = read_manifest(asset_bundle)
    assert (manifest.flavour, manifest.decoder, manifest.weights.layers) == ("coreai", "decoder.aimodel", "fp16")
    assert manifest.codec is not None and manifest.codec.decoder == "codec.aimodel"
    assert any("beta" in line for line in manifest.warnings) and "coreai-torch" in manifest.tools
    parity = read_core_parity(asset_bundle / "parity.json")
    assert parity.passed and parity.engine == ("run by Core AI",)
    assert parity.decoder[0].wraps > 4 and parity.decoder[0].weight_error is None
    assert parity.codec is not None and parity.codec.psnr > 40
    assert (parity.lint, parity.placement) == ((), {})
    assert main(["verify", str(asset_bundle)]) == 0
    assert "run by Core AI" in capsys.readouterr().out


def test_it_speaks(asset_bundle: Path) -> None:
    bundle = load_bundle(asset_bundle)
    audio = np.concatenate(list(speak(bundle, "One two.", find_prompt(bundle, "ada"), seed=3)))
    assert len(audio) > 0 and np.isfinite(audio).all() and audio.any()


def test_a_patch_voice_is_verified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {**SIZES, "num_hidden_layers": 1}
    voice = tiny.save_patch_voice(tmp_path / "voice", 3, sizes, scale=0.08, prefix=60, window=3)
    assert export(voice, tmp_path / "b") == 0
    bundle = load_bundle(tmp_path / "b")
    assert np.isfinite(speak(bundle, "One.", find_prompt(bundle, "ada"), seed=3).whole()).all()


def test_equal_exports_are_equal(core_voice: Path, tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        assert export(core_voice, tmp_path / name, *BARE) == 0
        hashes.append({path: entry.sha256 for path, entry in read_manifest(tmp_path / name).files.items()})
    assert hashes[0] == hashes[1]
    assert "creationDate" not in json.loads((tmp_path / "a/decoder.aimodel/metadata.json").read_text())


def test_an_asset_that_fails_its_gates_is_not_left(
    core_voice: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_placed", lambda new, write: 0 * write * new.mean())
    assert export(core_voice, tmp_path / "bad", *BARE) == 1
    assert "was not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--weights", "int8"), "--target coreai has no --weights int8: fp16"),
        (("--stateful",), "--stateful goes with --target coreml"),
        (("--block", "32"), "go with --target onnx"),
    ],
)
def test_what_is_refused(core_voice: Path, tmp_path: Path, options: tuple[str, ...], said: str, capsys: Any) -> None:
    assert export(core_voice, tmp_path / "bundle", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_what_cannot_be_loaded_is_told(asset_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be loaded by Core AI"):
        AIEngine(asset_bundle / "decoder.aimodel", ["no such function"])
    manifest = read_manifest(asset_bundle)
    assert manifest.coreml is not None
    with pytest.raises(ContractError, match="caches as inputs and outputs"):
        check_coreml(replace(manifest, coreml=replace(manifest.coreml, stateful=True)))
    copy = Path(shutil.copytree(asset_bundle, tmp_path / "copy"))
    with (copy / "decoder.aimodel/main.mlirb").open("r+b") as file:
        file.write(b"nothing")
    with pytest.raises(BundleError, match=r"main\.mlirb is altered"):
        load_bundle(copy)
