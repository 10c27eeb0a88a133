"""`export` and `verify` as commands: what they write, what they refuse, and that a failure leaves nothing."""

import json
import os
import shutil
import signal
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest

from sottovoce.__main__ import main
from sottovoce.export import assemble, plan
from sottovoce.export.codec_weights import in_eight_bits
from sottovoce.export.decoder import export_decoder
from sottovoce.export.parity import reference_logits
from sottovoce.export.verify import read_parity
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.manifest import read_manifest
from tests import tiny
from tests.models.test_checkpoint import write_folder


@pytest.fixture(scope="module")
def graphs(tiny_bundle: Path):
    return {name: onnx.load(tiny_bundle / name) for name in ("codec_decoder.onnx", "codec_encoder.onnx")}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch, graphs) -> None:
    """Tracing the codec takes seconds, and test_codec_graph.py is about it."""

    def made(_: object, weights: str) -> dict[str, onnx.ModelProto]:
        found = deepcopy(graphs)
        if weights == "int8":
            in_eight_bits(found["codec_decoder.onnx"])
        return found

    monkeypatch.setattr(plan, "codec_graphs", made)


def export(voice: Path, target: Path, *options: str) -> int:
    """Run the command; its exit status."""
    return main(["export", str(voice), "-o", str(target), "--threads", "1", *options])


def error_line(capsys) -> str:
    """The one line on stderr that is not a stage of the export."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sottovoce: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_bundle_is_whole(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    assert export(tiny_voice, tmp_path / "bundle") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    bundle = load_bundle(tmp_path / "bundle", threads=1)
    manifest = bundle.manifest
    assert manifest.parity == "passed"
    assert manifest.weights.layers == "int8"
    assert manifest.cache.groups[0].window == 91  # the longest utterance, 90 tokens, and the current one
    assert set(manifest.files) == {
        *("decoder.onnx", "decoder.onnx.data", "codec_decoder.onnx", "codec_encoder.onnx"),
        *("text.json", "prompts/ada.json", "prompts/bob.json", "parity.json"),
    }
    assert (tmp_path / "bundle" / "text.json").read_bytes() == (tiny_voice / "text.json").read_bytes()
    parity = read_parity(tmp_path / "bundle")
    assert parity.passed
    assert parity.written
    assert manifest.max_new_tokens == 90
    assert [case for case in parity.decoder.cases if case.startswith("ada")]
    assert "parity: passed" in capsys.readouterr().out


def test_weights_by_a_file(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "recipe.toml").write_text('weights = "int4"\n[[overrides]]\nmodules = "*.o_proj"\nweights = "fp32"')
    options = ["--weights-recipe", str(tmp_path / "recipe.toml")]
    assert main(["export", str(tiny_voice), "--dry-run", "--threads", "1", *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "int4 in blocks of 32, 1 exceptions; head int8 in blocks of 32, embedding int8 in blocks of 32" in said
    assert main(["export", str(tiny_voice), "--dry-run", "--head", "int4", *options]) == 2
    assert error_line(capsys) == "sottovoce: --head and --weights-recipe: the file says it all"
    assert main(["export", str(tiny_voice), "--dry-run", "--threads", "1", "--weights", "fp16"]) == 0
    assert "warning: fp16 is a file format" in capsys.readouterr().out
    assert main(["export", str(tiny_voice), "--dry-run", "--threads", "1", "--cache", "fp16"]) == 0
    assert "warning: over an fp16 cache" in capsys.readouterr().out


def test_weights_for_what_the_voice_says(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    options = ["--weights", "int4", "--calibrate", "--keep-failed"]  # random weights: top-1 is anybody's
    assert export(tiny_voice, tmp_path / "bundle", *options) in (0, 1)
    assert read_manifest(tmp_path / "bundle").weights.rounding == "gptq"
    assert [line for line in read_parity(tmp_path / "bundle").failures if "top-1" not in line] == []
    options = ["--decoder-only", "--prefix", "12", "--window", "9", "--calibrate", "--dry-run"]
    assert main(["export", str(tiny_voice), *options]) == 2
    assert "a decoder alone says nothing" in error_line(capsys)


def test_two_exports_are_the_same_bytes(tiny_voice: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert export(tiny_voice, tmp_path / name) == 0
    assert read_manifest(tmp_path / "a") == read_manifest(tmp_path / "b")


def test_dry_run_says_what_export_writes_and_writes_nothing(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(tiny_voice), "--dry-run", "--window", "20", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert export(tiny_voice, tmp_path / "bundle", "--window", "20") == 0
    manifest = read_manifest(tmp_path / "bundle")
    for name, entry in manifest.files.items():
        if name != "parity.json":
            (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
            assert float(line.split()[1]) == pytest.approx(entry.size / 1e3, abs=0.1)
    assert "130 + 20 slots" in said
    assert f"{manifest.cache.bytes / 1e3:.1f} kB" in said


def test_dry_run_touches_no_disk(tiny_voice: Path, tmp_path: Path, monkeypatch) -> None:
    voice = shutil.copytree(tiny_voice, tmp_path / "voice")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "voice", "-o", "bundle", "--dry-run", "--threads", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["voice"]
    assert sorted(p.name for p in voice.rglob("*")) == sorted(p.name for p in tiny_voice.rglob("*"))


def test_a_small_window_is_a_recorded_warning_and_a_small_codec_none(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    small = ["--window", "16", "--prefix", "100", "--weights", "fp32", "--codec", "int8"]
    assert export(tiny_voice, tmp_path / "bundle", *small) == 0
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.codec is not None and manifest.codec.weights == "int8"
    assert manifest.min_onnxruntime == "1.23"  # 1.22 for float32 alone
    found = read_parity(tmp_path / "bundle").codec
    assert found is not None and 1e-6 < found.noise < 0.01
    window, prefix = read_manifest(tmp_path / "bundle").warnings
    assert "window 16 is below" in window
    assert "prefix 100 is below" in prefix
    assert window in capsys.readouterr().out


def test_the_voice_s_own_window_is_no_warning(tiny_voice: Path, tmp_path: Path) -> None:
    voice = shutil.copytree(tiny_voice, tmp_path / "voice")
    config = json.loads((voice / "config.json").read_text())
    config["sottovoce"]["window"] = 24
    (voice / "config.json").write_text(json.dumps(config))
    assert export(voice, tmp_path / "bundle") == 0
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.cache.groups[0].window == 24
    assert manifest.warnings == ()
    assert manifest.max_position == 130 + 90


def test_a_voice_without_presets_is_verified_too(tiny_voice: Path, tmp_path: Path) -> None:
    voice = shutil.copytree(tiny_voice, tmp_path / "voice", ignore=shutil.ignore_patterns("prompts"))
    assert export(voice, tmp_path / "bundle", "--weights", "fp32") == 0
    cases = read_parity(tmp_path / "bundle").decoder.cases
    assert [case for case in cases if case.startswith("nobody")]


def test_a_gpt2_voice_speaks_as_torch_says(tmp_path: Path) -> None:
    voice = tiny.save_voice(tmp_path / "voice", "gpt2", {"n_embd": 32, "n_head": 2, "n_positions": 512}, window=16)
    assert export(voice, tmp_path / "bundle", "--weights", "fp32") == 0
    parity = read_parity(tmp_path / "bundle")
    assert parity.passed
    assert [case for case in parity.decoder.cases if case.startswith("ada: sentence")]


def test_a_gpt2_decoder_over_a_half_cache(tmp_path: Path) -> None:
    bare = write_folder(tmp_path / "bare", "gpt2_tied")
    options = ["--decoder-only", "--prefix", "12", "--window", "9", "--weights", "fp32", "--cache", "fp16"]
    assert export(bare, tmp_path / "bundle", *options) == 0
    stream = Stream(load_bundle(tmp_path / "bundle", threads=1))
    assert {buffers.dtype for buffers in stream.cache.arrays} == {np.dtype(np.float16)}
    assert stream.cache.nbytes == stream.cache.bias.size * 2 * 2 * 64 * 2
    prefix, tokens = [5, 6, 7, 8], list(range(20, 60))
    logits = np.stack([stream.prefill(prefix).copy(), *(stream.step(token).copy() for token in tokens)])
    expected = reference_logits(Checkpoint.open(bare).load(), prefix, tokens, 9, range(97))
    assert np.abs(logits - expected).max() < 0.02 * expected.std()


def test_a_voice_over_a_byte_cache(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    sizes = ["--weights", "fp32", "--cache", "int8", "--window", "16"]
    assert main(["export", str(tiny_voice), "--dry-run", "--threads", "1", *sizes]) == 0
    said = capsys.readouterr().out
    assert export(tiny_voice, tmp_path / "bundle", *sizes, "--keep-failed") in (0, 1)  # random weights dislike rounding
    manifest = read_manifest(tmp_path / "bundle")
    stream = Stream(load_bundle(tmp_path / "bundle", threads=1))
    assert {buffers.dtype for buffers in stream.cache.arrays} == {np.dtype(np.int8)}
    assert stream.cache.nbytes == manifest.cache.bytes == manifest.cache.groups[0].nbytes
    assert f"{manifest.cache.bytes / 1e3:.1f} kB" in said
    assert manifest.min_onnxruntime == "1.27"
    written = read_parity(tmp_path / "bundle").written
    assert written is not None
    assert written.failures == ()
    assert main(["say", str(tmp_path / "bundle"), "Hello.", "-o", str(tmp_path / "out.wav")]) == 0


def test_a_byte_cache_without_presets_is_a_recorded_warning(tmp_path: Path) -> None:
    bare = write_folder(tmp_path / "bare", "gpt2_tied")
    options = ["--decoder-only", "--prefix", "12", "--window", "9", "--weights", "fp32", "--cache", "int8"]
    assert export(bare, tmp_path / "bundle", *options) == 0
    (line,) = read_manifest(tmp_path / "bundle").warnings
    assert "made for random tokens" in line


def test_a_decoder_alone(tmp_path: Path) -> None:
    tiny.save_decoder(tmp_path / "bare", tiny.hf_config("llama"))
    options = ["--decoder-only", "--prefix", "20", "--window", "16", "--weights", "fp32", "--head-ids", "0:48,50"]
    assert export(tmp_path / "bare", tmp_path / "bundle", *options) == 0
    manifest = load_bundle(tmp_path / "bundle", threads=1).manifest
    assert set(manifest.files) == {"decoder.onnx", "decoder.onnx.data", "parity.json"}
    assert manifest.head.ids == ((0, 48), (50, 51))
    assert manifest.max_position == 512
    assert manifest.max_new_tokens is None
    assert main(["verify", str(tmp_path / "bundle"), "--against", str(tmp_path / "bare"), "--threads", "1"]) == 0


@pytest.mark.usefixtures("broken_decoder")
def test_a_decoder_alone_has_gates_too(tmp_path: Path, capsys) -> None:
    tiny.save_decoder(tmp_path / "bare", tiny.hf_config("llama"))
    options = ["--decoder-only", "--prefix", "20", "--window", "16"]
    assert export(tmp_path / "bare", tmp_path / "bundle", *options) == 1
    assert "a written weight is" in error_line(capsys)
    assert not (tmp_path / "bundle").exists()


REFUSED = {
    "output exists": ([], "--force"),
    "no output": ([], "-o BUNDLE"),
    "window": (["--window", "1"], "--window 1"),
    "prefix": (["--prefix", "0"], "--prefix 0"),
    "layout": (["--prefix", "3"], "the layout alone takes 3"),
    "threads": (["--threads", "0"], "--threads 0"),
    "head ids": (["--head-ids", "0:4"], "--decoder-only"),
    "a small codec in standard operators": (["--codec", "int8", "--flavour", "portable"], "--codec int8 goes with"),
    "a small codec for Apple": (["--codec", "int8", "--target", "coreml"], "--codec int8 goes with --target onnx"),
    "nothing recorded": (["--decoder-only"], "--prefix and --window"),
    "positions": (["--decoder-only", "--prefix", "500", "--window", "500"], "512 positions"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tiny_voice: Path, tmp_path: Path, capsys, kind: str) -> None:
    options, says = REFUSED[kind]
    target = ["-o", str(tmp_path / "new" / "bundle")] if kind != "no output" else []
    if kind == "output exists":
        (tmp_path / "new" / "bundle").mkdir(parents=True)
    assert main(["export", str(tiny_voice), "--threads", "1", *target, *options]) == 2
    assert says in error_line(capsys)
    assert kind == "output exists" or list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("lacks", "says"), [("codec", "codec is missing"), ("prompt", "prompt is missing")])
def test_an_incomplete_voice_is_told_its_mend(tiny_voice: Path, tmp_path: Path, capsys, lacks: str, says: str) -> None:
    voice = shutil.copytree(tiny_voice, tmp_path / "voice")
    config = json.loads((voice / "config.json").read_text())
    del config["sottovoce"][lacks]
    (voice / "config.json").write_text(json.dumps(config))
    assert export(voice, tmp_path / "bundle") == 2
    line = error_line(capsys)
    assert says in line
    assert "--decoder-only" in line
    assert not (tmp_path / "bundle").exists()


def test_a_preset_with_foreign_codes_is_named(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    voice = shutil.copytree(tiny_voice, tmp_path / "voice")
    prompt = json.loads((voice / "prompts" / "ada.json").read_text())
    (voice / "prompts" / "ada.json").write_text(json.dumps(prompt | {"codes": [tiny.CODES]}))
    assert export(voice, tmp_path / "bundle") == 2
    assert "ada.json" in error_line(capsys)


def test_a_prompt_that_counts_other_codes_than_the_codec_is_refused(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    voice = shutil.copytree(tiny_voice, tmp_path / "voice")
    config = json.loads((voice / "config.json").read_text())
    config["sottovoce"]["prompt"]["code_count"] = tiny.CODES - 1
    (voice / "config.json").write_text(json.dumps(config))
    assert export(voice, tmp_path / "bundle") == 2
    assert "prompt.code_count is 47, its codec has 48 codes" in error_line(capsys)


@pytest.fixture
def broken_decoder(monkeypatch) -> None:
    """An export that writes another decoder than the voice's."""

    def other(checkpoint, options, folder):
        decoder = checkpoint.load()
        decoder.model.layers[0].mlp.down_proj.weight.data *= 1.5
        return export_decoder(decoder, options, folder)

    monkeypatch.setattr(assemble, "export_decoder", other)


@pytest.mark.usefixtures("broken_decoder")
@pytest.mark.parametrize(("weights", "keep"), [("fp32", False), ("fp32", True), ("int8", False)])
def test_a_failed_gate_is_status_1_and_no_bundle(
    tiny_voice: Path, tmp_path: Path, capsys, weights: str, keep: bool
) -> None:
    options = ["--weights", weights, *(["--keep-failed"] if keep else [])]
    assert export(tiny_voice, tmp_path / "bundle", *options) == 1
    said = capsys.readouterr()
    assert "parity: failed" in said.out
    assert ("--keep-failed keeps it" in said.err) is not keep
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if keep else [])
    if keep:
        assert read_manifest(tmp_path / "bundle").parity == "failed"
        assert main(["verify", str(tmp_path / "bundle"), "--threads", "1"]) == 1


@pytest.mark.parametrize("full", ["export_decoder", "onnx.save", "file_entries"])
def test_a_disk_that_fills_up_leaves_nothing(tiny_voice: Path, tmp_path: Path, capsys, monkeypatch, full: str) -> None:
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"sottovoce.export.assemble.{full}", no_space)
    assert export(tiny_voice, tmp_path / "bundle") == 2
    assert "No space left on device" in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_being_asked_to_end_leaves_nothing(tiny_voice: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(assemble, "verify_bundle", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert export(tiny_voice, tmp_path / "bundle") == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []


def test_verify_measures_again(tiny_voice: Path, tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    report = tmp_path / "parity.json"
    verify = ["verify", str(tiny_bundle), "--threads", "1"]
    assert main([*verify, "--against", str(tiny_voice), "-o", str(report)]) == 0
    measured = capsys.readouterr().out
    assert json.loads(report.read_text())["passed"] is True
    assert "measured at export" not in measured
    assert main(verify) == 0
    kept = capsys.readouterr().out
    assert kept.startswith(measured)
    assert kept[len(measured) :].startswith("measured at export, with sottovoce ")


def test_verify_sees_two_verdicts(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"parity": "failed"}))
    assert main(["verify", str(bundle), "--threads", "1"]) == 2
    assert "disagree" in error_line(capsys)


def test_verify_knows_another_voice(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    other = tiny.save_voice(tmp_path / "voice", hf={"rope_theta": 5e4})
    assert main(["verify", str(tiny_bundle), "--against", str(other), "--threads", "1"]) == 2
    assert "is not the voice" in error_line(capsys)


def test_verify_sees_an_altered_file(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "text.json").write_text((bundle / "text.json").read_text() + " ")
    assert main(["verify", str(bundle), "--threads", "1"]) == 2
    assert "text.json" in error_line(capsys)


def test_verify_output_needs_a_voice(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    assert main(["verify", str(tiny_bundle), "--threads", "1", "-o", str(tmp_path / "parity.json")]) == 2
    assert "--against" in error_line(capsys)
