"""`export` of a patch voice and `verify`: what is written, what is refused, and that its gates see what is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from sottovoce.__main__ import main
from sottovoce.export import assemble, plan
from sottovoce.export.patch_graph import export_patches
from sottovoce.export.verify import read_parity
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.manifest import Manifest, PatchSpec, read_manifest


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    """Tracing the codec takes seconds, and test_codec_graph.py is about it."""
    graphs = {name: onnx.load(tiny_bundle / name) for name in ("codec_decoder.onnx", "codec_encoder.onnx")}
    monkeypatch.setattr(plan, "codec_graphs", lambda *_: graphs)


def export(voice: Path, *options: str) -> int:
    """Run the command; its exit status."""
    return main(["export", str(voice), "--threads", "1", *options])


def test_a_bundle_tells_how_it_is_driven(patch_bundle: Path) -> None:
    manifest = read_manifest(patch_bundle)
    assert manifest.patch and manifest.patch == PatchSpec(
        4, clip=40, window=16, speaker=32, token_bytes=manifest.patch.token_bytes
    )
    head, d, ff = 4 * 32 * 50, 32, 48  # fp32, a head of 48 codes and two stops
    per_layer = 4 * (d * (3 * d + d + 2 * d + 3 * ff) + 3 * d)  # attention, q and o across, feed-forward, norms
    assert manifest.patch.token_bytes == pytest.approx(head + 2 * per_layer, rel=0.02)
    groups = [(g.name, g.unit, g.held, g.prefix, g.window) for g in manifest.cache.groups]
    assert groups == [
        ("backbone", "patch", "runtime", 60, 7),
        ("compressor", "token", "runtime", 0, 40),  # the clip takes more than 15 in the ring and 4 behind it
        ("extractor", "token", "graph", 0, 4),
    ]
    assert manifest.cache.bytes == sum(group.nbytes for group in manifest.cache.groups[:2])
    assert manifest.max_position == 60 + 30 + 90  # a clip of 40 takes ten of the 60 slots, and 90 tokens are said
    assert manifest.parity == "passed"
    parity = read_parity(patch_bundle)
    assert parity.passed and parity.drawn and parity.drawn.graph == parity.drawn.torch == 1.0
    assert parity.decoder.wraps >= 4 and parity.decoder.greedy_identical


def test_dry_run_says_what_export_writes(patch_voice: Path, patch_bundle: Path, capsys) -> None:
    """Of a window and a prefix counted in patches; the voice's own ones hold its longest utterance and clip."""
    assert export(patch_voice, "--dry-run", "--window", "7", "--prefix", "60", "--weights", "fp32") == 0
    said = capsys.readouterr().out
    manifest = read_manifest(patch_bundle)
    for name, entry in manifest.files.items():
        if name != "parity.json":
            (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
            assert float(line.split()[1]) == pytest.approx(entry.size / 1e3, abs=0.1)
    assert "60 + 7 slots" in said and "window 7 is below the trained one that never wraps" in said
    assert export(patch_voice, "--dry-run") == 0
    # 130 tokens, of which a clip of 40 becomes 10 patches; 90 tokens are 23 patches, and the current one
    assert "100 + 24 slots" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cache", "fp16"], "--cache fp16: the caches of a patch voice are fp32"),
        (["--decoder-only", "--prefix", "9", "--window", "9"], "--decoder-only takes a decoder of tokens"),
        (["--window", "1"], "--window 1: at least 2"),
        (["--prefix", "3"], "the layout alone takes 3 slots"),
        (["--head-ids", "0:4"], "--head-ids goes with --decoder-only"),
    ],
)
def test_refused(patch_voice: Path, tmp_path: Path, capsys, options: list[str], says: str) -> None:
    assert export(patch_voice, "-o", str(tmp_path / "bundle"), *options) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("weights", "harm"),
    [
        ("fp32", "extractor.layers.1.cross.attention.v_proj.weight"),
        ("fp32", "compressor.layers.0.tokens.mlp.up_proj.weight"),
        ("int8", "extractor.layers.0.slot.weight"),
    ],
)
def test_a_failed_gate_is_status_1_and_no_bundle(
    patch_voice: Path, tmp_path: Path, capsys, monkeypatch, weights: str, harm: str
) -> None:
    """A graph with other weights than the voice's, in the nets."""

    def other(patches, prompt, options, folder):
        decoder = patches.load()
        decoder.state_dict()[harm].mul_(1.1)
        return export_patches(decoder, prompt, options, folder)

    monkeypatch.setattr(assemble, "export_patches", other)
    options = ["--weights", weights, "--window", "7", "--prefix", "60"]
    assert export(patch_voice, "-o", str(tmp_path / "bundle"), *options) == 1
    said = capsys.readouterr()
    assert "parity: failed" in said.out
    assert ("logits differ by" if weights == "fp32" else "a written weight is") in said.out
    assert not list(tmp_path.iterdir())


def test_a_sampler_that_breaks_a_rule_is_seen(patch_voice: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """The redraw's random number in the place of the draw's: every logit is right, and what is said is not."""

    def other(patches, prompt, options, folder):
        parts = export_patches(patches, prompt, options, folder)
        model = onnx.load(folder / "decoder.onnx", load_external_data=False)
        (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
        (first,) = (node for node in loop.attribute[0].g.node if node.output[0] == "uniform.first")
        first.input[1] = "sampler.one"
        (folder / "decoder.onnx").write_bytes(model.SerializeToString())
        return parts

    monkeypatch.setattr(assemble, "export_patches", other)
    options = ["--weights", "fp32", "--window", "7", "--prefix", "60"]
    assert export(patch_voice, "-o", str(tmp_path / "bundle"), *options) == 1
    failures = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 2 and all("of the tokens drawn are the sampler's" in line for line in failures)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_quantized_weights_are_held_to_themselves(patch_voice: Path, tmp_path: Path, weights: str) -> None:
    """Random weights may miss the gate that is for trained ones; the others judge the graph."""
    options = ["--weights", weights, "--window", "7", "--prefix", "60", "--keep-failed"]
    export(patch_voice, "-o", str(tmp_path / "bundle"), *options)
    parity = read_parity(tmp_path / "bundle")
    assert parity.written and parity.written.failures == () and parity.written.wraps >= 4
    assert parity.drawn and parity.drawn.graph == 1.0 and parity.drawn.torch is None
    assert all("top-1 agreement" in line for line in parity.failures)
    assert parity.decoder.margin_top1 > {"int8": 0.9, "int4": 0.3}[weights]
    assert load_bundle(tmp_path / "bundle", threads=1).manifest.weights.layers == weights


def edit(bundle: Path, folder: Path, *change: tuple[str, Any]) -> Path:
    """A copy whose manifest has other values at the given places, `cache.groups.0.window` for one."""
    copy = shutil.copytree(bundle, folder / "bundle")
    value = json.loads((copy / "manifest.json").read_text())
    for place, new in change:
        *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        where = value
        for part in path:
            where = where[part]
        where[last] = new
    (copy / "manifest.json").write_text(json.dumps(value))
    return copy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ([("patch", None)], "one token cache, or a patch voice"),
        ([("patch.size", 5)], "patch_ids"),
        ([("patch.size", 1)], "patch.size is 1"),
        ([("patch.window", None)], "must be backbone, extractor"),
        ([("patch.window", 38)], "cache.groups[1].window is 40, between 41"),
        ([("patch.clip", 41)], "cache.groups[1].window is 40, between 44"),
        ([("patch.speaker", 0)], "speaker of the graph is unknown"),
        ([("patch.token_bytes", -1)], "patch.token_bytes is -1"),
        ([("cache.groups.0.unit", "token")], "must be backbone, compressor, extractor"),
        ([("cache.groups.2.held", "runtime")], "must be backbone, compressor, extractor"),
        ([("cache.groups.0.window", 8)], "past_key_values.0.key"),
    ],
)
def test_a_manifest_that_contradicts_the_graph(
    patch_bundle: Path, tmp_path: Path, capsys, change: list[tuple[str, Any]], says: str
) -> None:
    broken = edit(patch_bundle, tmp_path, *change)
    assert main(["say", str(broken), "Hello.", "-o", str(tmp_path / "out.wav")]) == 2
    assert says in capsys.readouterr().err


def test_the_manifest_reads_back(patch_bundle: Path) -> None:
    manifest = read_manifest(patch_bundle)
    assert isinstance(manifest, Manifest)
    patch = json.loads(manifest.to_json())["patch"]
    assert {name: patch[name] for name in patch if name != "token_bytes"} == {
        "size": 4, "clip": 40, "window": 16, "speaker": 32,
    }  # fmt: skip
