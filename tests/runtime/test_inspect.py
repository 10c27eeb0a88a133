"""`inspect` shows what the manifest says, and refuses files that contradict it."""

import shutil
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.runtime.inspect_command import weights_text
from sottovoce.runtime.manifest import WeightFormat, WeightSpec, read_manifest


def test_every_file_and_the_cache_are_shown(tiny_bundle: Path, capsys) -> None:
    assert main(["inspect", str(tiny_bundle)]) == 0
    said = capsys.readouterr().out
    manifest = read_manifest(tiny_bundle)
    for name, entry in manifest.files.items():
        assert any(name in line and entry.sha256[:16] in line for line in said.splitlines())
    group = manifest.cache.groups[0]
    assert f"prefix {group.prefix} + window {group.window} tokens, fp32" in said
    assert "passed" in said.splitlines()[0]
    assert "warnings" in said


@pytest.mark.parametrize(
    ("embedding", "block", "said"),
    [
        ("int8", 128, "int8 in blocks of 128; head int8 in blocks of 128, embedding int8 in blocks of 128"),
        ("fp16", 0, "int8 per channel; head int8 per channel, embedding fp16"),
    ],
)
def test_what_shares_a_scale_is_said(embedding: WeightFormat, block: int, said: str) -> None:
    assert weights_text(WeightSpec("int8", "int8", embedding, block, block)) == said


def test_a_missing_file_is_named(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "decoder.onnx.data").unlink()
    assert main(["inspect", str(bundle)]) == 2
    assert "decoder.onnx.data is missing" in capsys.readouterr().err
