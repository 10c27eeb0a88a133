"""One Core ML bundle of a tiny voice for all tests here: converting takes the better part of a minute."""

from pathlib import Path

import onnx
import pytest

from sottovoce.__main__ import main
from sottovoce.export import plan
from tests.export.coreml.voices import engine_voice

WINDOW = 12


@pytest.fixture(scope="session")
def core_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice with a window, its prefix no multiple of anything."""
    return engine_voice(tmp_path_factory.mktemp("voices") / "tiny", prefix=100, window=WINDOW)


@pytest.fixture(scope="session")
def core_bundle(core_voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp16 bundle; tracing the ONNX codec is not what these tests are about."""
    target = tmp_path_factory.mktemp("bundles") / "tiny"
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "encoder", [], []))
    options = ["--target", "coreml", "--weights", "fp16", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "codec_graphs", lambda *_: {"codec_encoder.onnx": graph})
        assert main(["export", str(core_voice), "-o", str(target), *options]) == 0
    return target
