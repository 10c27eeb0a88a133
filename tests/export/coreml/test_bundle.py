"""`export --target coreml` and `verify` as commands: what they write, what they refuse, and that failures are seen."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.export import plan
from sottovoce.export.coreml import bundle_verify, modules
from sottovoce.export.coreml.bundle_verify import read_core_parity
from sottovoce.runtime.bundle import check_files
from sottovoce.runtime.manifest import read_manifest
from tests.export.coreml.voices import engine_voice

WINDOW = 12


def export(core_voice: Path, target: Path, *options: str) -> int:
    """Run the command; its exit status."""
    return main(["export", str(core_voice), "-o", str(target), "--target", "coreml", "--threads", "1", *options])


def test_a_bundle_is_whole(core_bundle: Path) -> None:
    manifest = read_manifest(core_bundle)
    check_files(core_bundle, manifest)
    group = manifest.cache.groups[0]
    assert (group.prefix, group.window, group.slots % 32) == (116, WINDOW, 0)  # rounded up from 100
    assert (manifest.cache.write, manifest.cache.aliased, group.dtype) == ("inplace", False, "fp16")
    assert manifest.cache.bytes == 2 * 2 * 2 * 1 * 128 * 32 * 2  # two sets of two layers' keys and values
    assert (manifest.flavour, manifest.decoder, manifest.weights.layers) == ("coreml", "decoder.mlpackage", "fp16")
    spec = manifest.coreml
    assert spec is not None
    assert [i.name for i in spec.prefill.inputs][:5] == [
        *("inputs_embeds", "rotary_cos", "rotary_sin", "attention_bias", "cache_write")
    ]
    assert manifest.io.inputs[3].shape == (1, 1, 1, 128)
    assert spec.prefill.inputs[3].shape == (1, 1, 32, 128)
    assert manifest.codec is not None
    assert (manifest.codec.decoder, manifest.codec.encoder) == ("codec.mlpackage", "codec_encoder.onnx")
    assert np.load(core_bundle / spec.embedding).dtype == np.float16
    parity = read_core_parity(core_bundle / "parity.json")
    assert parity.passed
    assert parity.engine == ("interpreted",)
    assert parity.decoder[0].wraps > 4
    assert int(parity.decoder[0].cases[2].split()[1].strip(",")) > 25  # a real prefix: twenty codes of ada, and text
    assert parity.codec is not None
    assert parity.codec.runs > 3
    assert not [line for line in parity.lint if "violation" in line]


def test_verify_shows_and_measures(
    core_bundle: Path, core_voice: Path, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(bundle_verify, "GREEDY_STEPS", 2)
    assert main(["verify", str(core_bundle)]) == 0
    said = capsys.readouterr().out
    assert "interpreted" in said
    assert "parity: passed" in said
    assert main(["verify", str(core_bundle), "--against", str(core_voice), "-o", str(tmp_path / "new.json")]) == 0
    assert json.loads((tmp_path / "new.json").read_text())["engine"] == ["interpreted"]
    other = engine_voice(tmp_path / "other", prefix=90)
    assert main(["verify", str(core_bundle), "--against", str(other)]) == 2
    assert "their hashes differ" in capsys.readouterr().err


def test_a_damaged_package_is_seen(core_bundle: Path, core_voice: Path, tmp_path: Path, capsys: Any) -> None:
    copy = Path(shutil.copytree(core_bundle, tmp_path / "copy"))
    weights = copy / "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(weights.read_bytes())
    data[4096] ^= 0xFF
    weights.write_bytes(bytes(data))
    assert main(["verify", str(copy)]) == 2
    assert "weight.bin is altered" in capsys.readouterr().err


def test_a_package_that_fails_its_gates_is_not_left(
    core_voice: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossed(self: Any, x: Any, tokens: int) -> Any:
        if self.group > 1:
            x = modules.torch.cat([x[:, :, :, i * tokens : (i + 1) * tokens] for i in (1, 0)], 2)
        return x.reshape(1, self.heads * self.head_dim, 1, tokens)

    monkeypatch.setattr(modules.SlotAttention, "_ungrouped", crossed)
    options = ("--decoder-only", "--prefix", "20", "--window", "12", "--head-ids", "0:49", "--weights", "fp16")
    assert export(core_voice, tmp_path / "bad", *options) == 1
    assert "was not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--weights", "fp32"), "no --weights fp32"),
        (("--block", "32"), "go with --target onnx"),
        (("--cache", "int8"), "go with --target onnx"),
    ],
)
def test_what_is_refused(core_voice: Path, tmp_path: Path, options: tuple[str, ...], said: str, capsys: Any) -> None:
    assert export(core_voice, tmp_path / "bundle", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_onnx_has_no_states(core_voice: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(core_voice), "-o", str(tmp_path / "b"), "--stateful"]) == 2
    assert "--stateful goes with --target coreml" in capsys.readouterr().err


def test_dry_run_writes_nothing(core_voice: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "codec_graphs", lambda *_: {})
    assert (
        main(["export", str(core_voice), "--target", "coreml", "--weights", "int8", "--dry-run", "--threads", "1"]) == 0
    )
    assert "116 + 12 slots" in capsys.readouterr().out
