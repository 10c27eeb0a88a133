"""One thread everywhere, and a tiny voice with its bundle that every test may read (copy them to change them)."""

import os
from pathlib import Path

import pytest

# Two libraries with a pool each would fight over a small machine's processors.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"


def pytest_report_header() -> str:
    """Versions that the figures in tests depend on."""
    import numpy
    import onnxruntime

    return f"numpy {numpy.__version__}, onnxruntime {onnxruntime.__version__}"


@pytest.fixture(scope="session")
def tiny_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a voice with random weights."""
    from tests.tiny import save_voice

    return save_voice(tmp_path_factory.mktemp("voices") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp32 bundle with a window; exported once, since tracing the codec takes seconds."""
    from sottovoce.export.assemble import export_bundle
    from sottovoce.export.plan import Request

    target = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(tiny_voice, target, Request(weights="fp32", window=12, prefix=100))
    return target


@pytest.fixture(scope="session")
def patch_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same voice speaking in patches of four tokens, its nets random too."""
    from tests.tiny import save_patch_voice

    return save_patch_voice(tmp_path_factory.mktemp("voices") / "patches")


@pytest.fixture(scope="session")
def patch_bundle(patch_voice: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp32 bundle with a window of seven patches; the codec's graphs are those of the other voice's."""
    import onnx

    from sottovoce.export import plan
    from sottovoce.export.assemble import export_bundle
    from sottovoce.export.plan import Request

    target = tmp_path_factory.mktemp("bundles") / "patches"
    graphs = {name: onnx.load(tiny_bundle / name) for name in ("codec_decoder.onnx", "codec_encoder.onnx")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "codec_graphs", lambda *_: graphs)
        export_bundle(patch_voice, target, Request(weights="fp32", window=7, prefix=60))
    return target
