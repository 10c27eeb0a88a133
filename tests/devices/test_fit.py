"""The table of devices, and predictions held against what was measured."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sottovoce.__main__ import main
from sottovoce.devices.fit import (
    decoder_bytes,
    loaded_bytes,
    mapped,
    memory_terms,
    predict,
    seconds_per_byte,
    step_bytes,
)
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.table import find_device, read_devices
from sottovoce.errors import OptionError
from sottovoce.runtime.manifest import CoremlSpec, FileEntry, IoSpec, Manifest, PrefillSpec, read_manifest


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return read_manifest(tiny_bundle)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path):
    return profile_bundle(tiny_bundle, "hello there", runs=1, threads=1)


def test_every_figure_has_its_source() -> None:
    devices = read_devices()
    assert len(devices) >= 15
    for name, device in devices.items():
        given = {f for f in ("ram", "cores", "isa", "bandwidth") if getattr(device, f) is not None}
        assert set(device.sources) == given, name
        for source in device.sources.values():
            assert urlsplit(source).scheme == "https" or source == "a configuration"
    assert {device.system for device in devices.values()} >= {"Linux", "Android", "iOS"}
    with pytest.raises(OptionError, match="raspberry-pi-5-8gb"):
        find_device("toaster")


def test_memory_is_near_what_was_measured(manifest: Manifest, report) -> None:
    """The tiny voice is almost nothing but the runtime: what does not depend on the bundle is held here."""
    found = predict(manifest, find_device("raspberry-pi-5-8gb"))
    assert found.memory.low < found.memory.expected < found.memory.high
    assert found.memory.expected == pytest.approx(sum(term.size.expected for term in found.terms))
    assert all(term.reason for term in found.terms)
    calibrated = predict(manifest, find_device("raspberry-pi-5-8gb"), [report])
    assert calibrated.memory.expected == pytest.approx(report.memory.peak, rel=0.12)


def test_larger_weights_and_caches_are_larger(manifest: Manifest) -> None:
    weights = {name: replace(entry, size=entry.size + 10**8) for name, entry in manifest.files.items()}
    grown = replace(manifest, files={**manifest.files, "decoder.onnx.data": weights["decoder.onnx.data"]})
    before, after = (sum(t.size.expected for t in memory_terms(m)) for m in (manifest, grown))
    assert after - before > 1e8
    blocks = replace(manifest, weights=replace(manifest.weights, layers="int4", block_size=32))
    packed = {term.name: term.size.expected for term in memory_terms(blocks)}["weights"]
    # Scales are there while a graph is opened, and count where caches and activations take less after that.
    rows, sizes = min(0.5 * decoder_bytes(blocks), 6e6), (10**6, 10**9)
    heavy = {name: replace(entry, size=entry.size + 10**9) for name, entry in blocks.files.items()}
    opened = [
        mapped(replace(blocks, files=heavy, cache=replace(blocks.cache, bytes=size, aliased=False))).expected
        for size in sizes
    ]
    assert opened[0] > 1e8
    assert opened[1] == 6e6 >= rows
    sums = decoder_bytes(blocks) * 4 / 20  # of a block: 16 bytes, and a scale; the engine adds a sum as large
    assert packed == pytest.approx(loaded_bytes(blocks) + sums)
    wide = replace(manifest, cache=replace(manifest.cache, bytes=10**9))
    assert sum(t.size.high for t in memory_terms(wide)) > 1e9
    encoder = manifest.codec and manifest.codec.encoder
    assert encoder
    kept = replace(manifest, files={**manifest.files, encoder: weights[encoder]})
    assert memory_terms(kept) == memory_terms(manifest)  # it is not open while the voice speaks
    assert manifest.codec
    half = replace(manifest, codec=replace(manifest.codec, weights="fp16"))
    grown_by = loaded_bytes(half) - loaded_bytes(manifest)
    assert grown_by == manifest.files[manifest.codec.decoder].size  # the engine makes float32 of it


def sizes(manifest: Manifest) -> dict[str, float]:
    """What is expected of each term."""
    return {term.name: term.size.expected for term in memory_terms(manifest)}


def test_two_graphs_pack_twice_and_read_a_whole_prefix(manifest: Manifest) -> None:
    (group,) = manifest.cache.groups
    cache = replace(manifest.cache, aliased=False)
    graph = PrefillSpec("prefill.onnx", IoSpec((), ()), hidden_size=896, intermediate_size=4864, heads=14, packed=10**8)
    two = replace(manifest, prefill=graph, cache=cache)
    one, both = sizes(manifest), sizes(two)
    assert both["weights"] - one["weights"] == 2e8 - decoder_bytes(manifest)
    assert both["graphs"] == 2 * one["graphs"]
    assert step_bytes(two) == 10**8 + manifest.cache.bytes
    # 24 layers of these shapes were seen to take 9.0, 42.5 and 98 MB.
    for prefix, megabytes in ((64, 9.0), (256, 42.5), (512, 98.0)):
        at_once = replace(two, cache=replace(cache, groups=(replace(group, prefix=prefix),)))
        assert sizes(at_once)["arena"] - one["arena"] == pytest.approx(megabytes * 1e6, rel=0.06)
    narrow = replace(two, cache=replace(cache, bytes=10**6, groups=(replace(group, dtype="int8"),)))
    assert sizes(narrow)["arena"] - both["arena"] == pytest.approx(2e6)  # keys are half of it, and four times as wide
    # A block of 128 weights has 4 bytes of scale in the file; each graph has its sum, and the scale once more.
    for block, kinds in ((128, 2), (0, 3)):
        spec = replace(manifest.weights, layers="int8", block_size=block)
        extra = sizes(replace(two, weights=spec))["weights"] - both["weights"]
        assert extra == pytest.approx(2 * kinds * 1e8 * 4 / 132)


def test_the_engine_holds_half_precision_as_float32(manifest: Manifest) -> None:
    half = replace(manifest, weights=replace(manifest.weights, layers="fp16"))
    assert loaded_bytes(half) - loaded_bytes(manifest) == decoder_bytes(manifest)


def test_a_portable_bundle_is_near_what_was_measured(tiny_voice: Path, tmp_path: Path) -> None:
    """All that is large here is the runtime; `python -m benchmarks.fit` holds what is not."""
    options = ["--weights", "fp32", "--window", "12", "--prefix", "100", "--flavour", "portable", "--threads", "1"]
    assert main(["export", str(tiny_voice), "-o", str(tmp_path / "bundle"), *options]) == 0
    measured = profile_bundle(tmp_path / "bundle", "hello there", runs=1, threads=1)
    found = predict(read_manifest(tmp_path / "bundle"), find_device("raspberry-pi-5-8gb"), [measured])
    assert found.memory.expected == pytest.approx(measured.memory.peak, rel=0.12)


@pytest.mark.parametrize(("ram", "verdict"), [(1.0, "fits"), (0.15, "tight"), (0.05, "does not fit")])
def test_verdicts(manifest: Manifest, ram: float, verdict: str) -> None:
    assert predict(manifest, replace(find_device("raspberry-pi-5-8gb"), ram=ram)).verdict == verdict


def test_core_ml_runs_on_apples_systems_alone(manifest: Manifest, tmp_path: Path, capsys) -> None:
    spec = CoremlSpec(IoSpec((), ()), 32, False, True, "embedding.npy", "positions.npy", None, ())
    sizes = {"decoder.mlpackage/weights/weight.bin": 40_000_000, "embedding.npy": 2_000_000, "decoder.onnx.data": 10**9}
    files = {name: FileEntry("", size) for name, size in sizes.items()}
    apple = replace(manifest, flavour="coreml", decoder="decoder.mlpackage", coreml=spec, files=files)
    found = predict(apple, find_device("iphone-14"))
    assert found.verdict == "fits"
    assert {term.name: term.size.expected for term in found.terms}["weights"] == 40e6
    assert found.rtf and found.memory.low < 0.7 * found.memory.expected  # nobody knows what Core ML itself takes
    refused = predict(apple, find_device("raspberry-pi-5-8gb"))
    assert (refused.verdict, refused.rtf) == ("does not run", None)
    (tmp_path / "manifest.json").write_text(apple.to_json())
    assert main(["fit", str(tmp_path), "--device", "raspberry-pi-5-8gb"]) == 1
    assert predict(replace(apple, flavour="coreai"), find_device("intel-n100-8gb")).verdict == "fits"
    assert "export with --target onnx" in capsys.readouterr().out
    assert main(["fit", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("does not run") >= 10


def test_speed_follows_bandwidth_and_reports(manifest: Manifest, report) -> None:
    device = find_device("raspberry-pi-5-8gb")
    slow, fast = (predict(manifest, replace(device, bandwidth=speed)).rtf for speed in (10.0, 20.0))
    assert slow
    assert fast
    assert slow.low == pytest.approx(2 * fast.low)
    unknown = predict(manifest, find_device("raspberry-pi-zero-2-w"))
    assert unknown.rtf is None
    assert "--report" in unknown.reasons[1]
    known = predict(manifest, find_device("raspberry-pi-zero-2-w"), [report])
    assert known.rtf
    assert known.rtf.expected == pytest.approx(report.timing.rtf, rel=0.2)  # the last token takes no step
    assert step_bytes(manifest) == report.step_bytes
    assert f"{report.bundle} on {report.machine.processor}" in known.reasons[-1]
    # One disturbed utterance of several decides nothing.
    first, *others = report.utterances
    steady = replace(report, utterances=(first, *others, *others, replace(others[-1], busy=9 * others[-1].busy)))
    assert seconds_per_byte(steady) == seconds_per_byte(report)


def test_the_commands(tiny_bundle: Path, report, tmp_path: Path, capsys) -> None:
    assert main(["fit", str(tiny_bundle)]) == 0
    assert capsys.readouterr().out.count("\n") == len(read_devices()) + 1
    (tmp_path / "report.json").write_text(report.to_json())
    assert main(["fit", str(tiny_bundle), "--device", "iphone-13", "--report", str(tmp_path / "report.json")]) == 0
    assert "median of the reports given" in capsys.readouterr().out
    assert main(["fit", str(tiny_bundle), "--device", "toaster"]) == 2
    assert main(["devices"]) == 0
    assert main(["devices", "pixel-6"]) == 0
    assert "https://" in capsys.readouterr().out
    older = json.loads(report.to_json()) | {"schema": 1}
    (tmp_path / "report.json").write_text(json.dumps(older))
    assert main(["fit", str(tiny_bundle), "--report", str(tmp_path / "report.json")]) == 2
    assert "profile again" in capsys.readouterr().err
