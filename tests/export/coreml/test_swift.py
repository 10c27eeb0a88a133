"""The example for iOS, as far as a machine without Core ML can build it: it draws and asks what the runtime does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sottovoce.runtime.manifest import SCHEMA, SamplingSpec, read_manifest
from sottovoce.runtime.sampling import Sampler
from tests import tiny
from tests.export.coreml.recorded import record
from tests.export.coreml.swift import require_swift, run_swift
from tests.export.coreml.voices import SIZES, exported

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


def test_it_reads_the_bundles_of_today() -> None:
    """Said of its source, for machines without Swift."""
    source = (PACKAGE / "Sources" / "SottovoceCore" / "Manifest.swift").read_text()
    assert f"guard schema == {SCHEMA}, " in source


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


WORDS = tuple(range(tiny.TEXT_OFFSET, tiny.TEXT_OFFSET + 8))


@pytest.fixture(scope="module")
def toolchain() -> None:
    """Before minutes are spent on bundles."""
    require_swift()


@pytest.fixture(scope="module")
def bundles(
    toolchain: None, core_voice: Path, core_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Of tokens, with states and with learned positions; of patches of four, with states, and means alone."""
    folder = tmp_path_factory.mktemp("swift-bundles")

    def patched(name: str, nets: dict[str, str], *more: str) -> Path:
        sizes = {**SIZES, "num_hidden_layers": 1}
        voice = tiny.save_patch_voice(folder / f"{name}-voice", 4, sizes, nets, 0.08, prefix=100, window=4)
        return exported(voice, folder / name, *more)

    sizes = {"n_embd": 64, "n_head": 2, "n_layer": 1, "n_positions": 512, "n_inner": 96}
    learned = tiny.save_voice(folder / "learned-voice", "gpt2", sizes, prefix=100, window=12)
    return {
        "tokens": core_bundle,
        "token-states": exported(core_voice, folder / "token-states", "--stateful"),
        "learned": exported(learned, folder / "learned"),
        "patches": patched("patches", {}),
        "states": patched("states", {}, "--stateful"),
        "means": patched("means", {"compressor": "mean", "speaker": "none"}),
    }


@pytest.fixture(scope="module")
def package(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with bundles and what Swift is to find beside them."""
    folder = tmp_path_factory.mktemp("swift") / "ios"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns(".build"))
    stopped = {}
    for name, bundle in bundles.items():
        prompt = read_manifest(bundle).prompt
        assert prompt
        clip = tuple(range(prompt.code_offset, prompt.code_offset + 21))  # its last patch is not whole
        # Past the compressor's ring of 32; long enough for two runs of `prefill`; into the middle of a patch.
        stopped[name] = record(bundle, folder / name, (*WORDS * 4, *clip, WORDS[0]), 45)
    assert any(stopped[name] for name in ("tokens", "token-states", "learned"))
    assert any(stopped[name] for name in ("patches", "states", "means"))
    manifest = read_manifest(bundles["tokens"])
    assert manifest.coreml
    table = np.load(bundles["tokens"] / manifest.coreml.embedding)
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
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    for test in ("Bundle", "Replay"):
        assert f"{test}Tests' passed" in said
    assert "skipped" not in said
