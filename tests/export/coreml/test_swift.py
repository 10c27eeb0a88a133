"""The example for iOS, as far as a machine without Core ML can build it: its manifest, tables and sampler are ours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sottovoce.runtime.manifest import SamplingSpec, read_manifest
from sottovoce.runtime.sampling import Sampler
from tests.export.coreml.swift import run_swift

PACKAGE = Path(__file__).parents[3] / "examples" / "ios"
RANGES, STOP = ((3, 40), (50, 51), (60, 90)), (50, 89)
IDS = np.concatenate([np.arange(*ids) for ids in RANGES])
CASES = (
    SamplingSpec(temperature=0),
    SamplingSpec(temperature=0, repetition_penalty=1.7, repetition_window=5),
    SamplingSpec(temperature=0.7, top_k=7),
    SamplingSpec(temperature=1.0, top_p=0.8),
    SamplingSpec(temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.3, repetition_window=4),
    SamplingSpec(temperature=0.5, top_k=5, ras_window=6, ras_tau=0.3),
)


def case(spec: SamplingSpec, seed: int) -> dict[str, object]:
    """Thirty draws of the runtime's sampler, and what they were drawn from."""
    sampler, random = Sampler(spec, IDS, STOP, seed, seed), np.random.default_rng(seed)
    # Below zero in half of the cases: a penalty makes such logits less likely another way.
    logits = random.normal(-6 * (seed % 2), 2, (30, len(IDS))).astype(np.float32)
    tokens = [sampler.draw(row.copy()) for row in logits]
    return {
        "sampling": vars(spec), "head": {"ids": RANGES}, "stop": STOP, "seed": seed, "minTokens": seed,
        "logits": logits.tolist(), "tokens": tokens,
    }  # fmt: skip


@pytest.fixture(scope="module")
def package(core_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with a bundle and what Swift is to find beside it."""
    folder = tmp_path_factory.mktemp("swift") / "ios"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns(".build"))
    bundle = folder / "bundle"
    bundle.mkdir()
    manifest = read_manifest(core_bundle)
    assert manifest.coreml
    for name in ("manifest.json", manifest.coreml.embedding, manifest.coreml.positions):
        shutil.copyfile(core_bundle / name, bundle / name)
    table = np.load(core_bundle / manifest.coreml.embedding)
    expected = {
        "maxPosition": manifest.max_position,
        "slots": manifest.cache.groups[0].slots,
        "rows": len(table),
        "lastRow": table[-1].view(np.uint16).ravel().tolist(),
        "cases": [case(spec, seed) for spec in CASES for seed in range(4)],
    }
    (folder / "expected.json").write_text(json.dumps(expected))
    return folder


def test_it_builds_and_says_what_the_runtime_says(package: Path) -> None:
    done = run_swift(package, ["test"], SOTTOVOCE_EXPECTED=str(package))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "BundleTests.testTheSamplerDrawsTheSameTokens' passed" in done.stdout + done.stderr
