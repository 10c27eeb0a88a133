"""A portable bundle in the engines it is made for: an old ONNX Runtime through the package's own loop, and OpenVINO.
Bundles of the default flavour in the oldest ONNX Runtime that runs them.

Each has an environment of its own beside the repository's (`make engines`); a test whose environment is missing is
skipped.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sottovoce.__main__ import main
from sottovoce.export.cache_scales import Scales
from sottovoce.export.decoder import DecoderParts
from sottovoce.export.head import ids_of
from sottovoce.export.parity import reference_logits
from sottovoce.export.written import WrittenWeights, load_written, with_head_of
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.runtime.manifest import read_manifest
from tests import tiny

ROOT = Path(__file__).parents[2]
PREFIX, WINDOW = 12, 6
FED = {"prefix": [5, 6, 7, 8, 9], "tokens": [int(n) for n in np.random.default_rng(0).integers(0, 48, 30)]}


def interpreter(name: str) -> Path:
    """The Python of environment `name`; the test is skipped where there is none."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python.parent.parent.name} is missing: make engines")
    return python


def export(folder: Path, *options: str, family: str = "qwen2", flavour: str = "portable") -> Path:
    """A tiny decoder's bundle."""
    tiny.save_decoder(folder / "bare", tiny.hf_config(family))
    shape = ["--decoder-only", "--prefix", str(PREFIX), "--window", str(WINDOW), "--head-ids", "0:49", "--threads", "1"]
    bundle = ["-o", str(folder / "bundle"), "--flavour", flavour]
    assert main(["export", str(folder / "bare"), *bundle, *shape, *options]) == 0
    return folder / "bundle"


def expected(bundle: Path) -> np.ndarray:
    """Torch's logits on the matrices and scales that were written."""
    parts = DecoderParts.of(read_manifest(bundle))
    ids, graph = ids_of(parts.head.ids), bundle / parts.decoder
    decoder = with_head_of(graph, Checkpoint.open(bundle.parent / "bare").load())
    load_written(decoder, graph, ids)
    scales: Scales | None = None
    if parts.cache.groups[0].dtype == "int8":
        scales = WrittenWeights(graph).scales(decoder.config.layers)
    return reference_logits(decoder, FED["prefix"], FED["tokens"], WINDOW, ids, scales)


def said(python: Path, script: str, bundle: Path) -> np.ndarray:
    """Logits by `script` in another interpreter."""
    fed, out = bundle.parent / "fed.json", bundle.parent / "out.npy"
    fed.write_text(json.dumps(FED))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [str(part) for part in (python, Path(__file__).parent / script, bundle, fed, out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    logits: np.ndarray = np.load(out)
    return logits


def say(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A sentence by the bundle in `folder`, with the runtime on another interpreter."""
    command = [str(python), "-m", "sottovoce.runtime", str(folder / "bundle"), "Hello there."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command += ["-o", str(folder / "out.wav")]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("weights", "cache", "tolerance"),
    [
        ("fp32", "fp32", 1e-4),
        ("fp32", "fp16", 0.02),
        ("fp32", "int8", 0.05),
        ("int8", "fp32", 1e-4),
        ("int8 --block 0", "fp32", 1e-4),
        ("int4", "int8", 0.15),
    ],
)
@pytest.mark.parametrize(("engine", "script"), [("ort121", "drive_runtime.py"), ("openvino", "drive_openvino.py")])
def test_it_says_what_torch_says(
    tmp_path: Path, engine: str, script: str, weights: str, cache: str, tolerance: float
) -> None:
    python = interpreter(engine)
    bundle = export(tmp_path, "--weights", *weights.split(), "--cache", cache)
    wanted = expected(bundle)
    assert np.abs(said(python, script, bundle) - wanted).max() <= tolerance * wanted.std()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("cache", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02)])
def test_the_default_flavour_runs_from_122_on(tmp_path: Path, family: str, cache: str, tolerance: float) -> None:
    python = interpreter("ort122")
    bundle = export(tmp_path, "--weights", "fp32", "--cache", cache, family=family, flavour="ort")
    assert read_manifest(bundle).min_onnxruntime == "1.22"
    wanted = expected(bundle)
    assert np.abs(said(python, "drive_runtime.py", bundle) - wanted).max() <= tolerance * wanted.std()


def test_an_old_runtime_speaks(tiny_voice: Path, tmp_path: Path) -> None:
    python = interpreter("ort121")
    options = ["--flavour", "portable", "--weights", "fp32", "--window", "16", "--threads", "1"]
    assert main(["export", str(tiny_voice), "-o", str(tmp_path / "bundle"), *options]) == 0
    done = say(python, tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("sottovoce: warning: cut") for line in done.stderr.splitlines())
    assert (tmp_path / "out.wav").stat().st_size > 1000


def test_an_old_runtime_refuses_a_small_cache_in_one_line(tmp_path: Path) -> None:
    python = interpreter("ort121")
    tiny.save_decoder(tmp_path / "bare", tiny.hf_config())
    shape = ["--decoder-only", "--prefix", "12", "--window", "6", "--cache", "int8", "--threads", "1"]
    assert main(["export", str(tmp_path / "bare"), "-o", str(tmp_path / "bundle"), *shape]) == 0
    done = say(python, tmp_path)
    assert done.returncode == 2
    assert "needs onnxruntime 1.27, found 1.21" in done.stderr
    assert done.stderr.count("\n") == 1
