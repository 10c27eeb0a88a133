"""The portable flavour: what its two graphs are made of, that they say what torch says, and the commands on them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sottovoce.__main__ import main
from sottovoce.errors import OptionError
from sottovoce.export.cache_scales import random_utterances
from sottovoce.export.decoder import DATA, DecoderOptions, DecoderParts, export_decoder, plan_decoder
from sottovoce.export.head import ids_of
from sottovoce.export.parity import check_decoder
from sottovoce.export.portable_drive import PortableDriver
from sottovoce.export.quantize import PER_CHANNEL, quantize
from sottovoce.export.weight_recipe import WeightRecipe
from sottovoce.export.written_parity import check_written
from sottovoce.models.decoder import Decoder
from sottovoce.runtime import bundle as bundle_module
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.manifest import read_manifest
from tests import tiny
from tests.models.shapes import CONFIGS, tiny_decoder

HEAD = ((3, 40), (50, 51), (60, 90))
GRAPHS = ("decode.onnx", "prefill.onnx")


def export(
    folder: Path, name: str, weights: str | WeightRecipe = "fp32", cache: str = "fp32", window: int = 9, **changes: Any
) -> tuple[Decoder, DecoderParts]:
    """A tiny decoder and the parts of its graphs in `folder`."""
    decoder = tiny_decoder(name, **changes)
    heard = random_utterances(ids_of(HEAD), 12, window)
    options = DecoderOptions(weights, 12, window, 160, HEAD, cache, heard, flavour="portable")  # type: ignore[arg-type]
    parts = export_decoder(decoder, options, folder)
    assert plan_decoder(decoder, options) == parts
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == parts.sizes
    return decoder, parts


PER_ROW = WeightRecipe("int8", PER_CHANNEL)

FORMATS = [
    ("fp32", "fp32", 1e-5),
    ("fp32", "fp16", 0.02),
    ("fp32", "int8", 0.05),
    ("fp16", "fp32", 1e-5),
    ("int8", "fp32", 1e-5),
    ("int8", "int8", 0.05),
    (PER_ROW, "fp32", 1e-5),
    ("int4", "fp32", 1e-5),
    ("int4", "fp16", 0.02),
]
"""Weights, cache, and how far logits may be from torch's on what was written, as a share of their deviation."""


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("weights", "cache", "tolerance"), FORMATS)
def test_graphs_equal_torch(
    tmp_path: Path, name: str, weights: str | WeightRecipe, cache: str, tolerance: float
) -> None:
    decoder, parts = export(tmp_path, name, weights, cache)
    written, report = check_written(decoder, tmp_path, parts), check_decoder(decoder, tmp_path, parts)
    assert written.failures == report.failures == ()
    assert written.wraps >= 4
    assert written.float_error <= tolerance
    assert report.logits_std > 0.3
    assert (written.weight_error > 0.4) is (weights != "fp32")


@pytest.mark.parametrize("window", [2, 148])
def test_any_window(tmp_path: Path, window: int) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied", window=window)
    assert check_decoder(decoder, tmp_path, parts).failures == ()


def test_any_garbage(tmp_path: Path) -> None:
    _, parts = export(tmp_path, "llama3_rope")
    runs = []
    for garbage in (1e3, 0.0):
        group = parts.cache.groups[0]
        driver = PortableDriver(tmp_path / GRAPHS[0], tmp_path / GRAPHS[1], group, garbage=garbage)
        runs.append(np.stack([driver.prefill([5, 6, 7]), *(driver.step(token) for token in range(20))]))
    np.testing.assert_array_equal(runs[0], runs[1])


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("name", ["qwen3_head_dim", "gpt2_own_head"])
def test_standard_operators_and_fixed_shapes_over_one_file(tmp_path: Path, name: str, weights: str) -> None:
    _, parts = export(tmp_path, name, weights, "int8")
    places = []
    for graph in GRAPHS:
        model = onnx.load(tmp_path / graph, load_external_data=False)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
        assert {node.domain for node in model.graph.node} == {""}
        assert model.ir_version == 10
        onnx.checker.check_model(str(tmp_path / graph))
        for value in (*model.graph.input, *model.graph.output):
            assert all(axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim)
        tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
        places.append({t.name: {e.key: e.value for e in t.external_data} for t in tensors})
        assert max(tensor.ByteSize() for tensor in model.graph.initializer) < 300
    assert places[0] == places[1]
    assert {place["location"] for place in places[0].values()} == {DATA}
    assert sum(int(place["length"]) for place in places[0].values()) <= parts.sizes[DATA]


@pytest.mark.parametrize(("cache", "width"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_buffers_are_the_slots_once(tmp_path: Path, cache: str, width: int) -> None:
    decoder, parts = export(tmp_path, "llama3_rope", cache=cache)
    config, slots = decoder.config, {}
    for spec in (*parts.io.inputs, *parts.io.outputs):
        if spec.name.endswith(".key"):
            slots[spec.name.split(".")[0]] = spec.shape[2]
    assert slots == {"past_key_values": 20, "present": 1}
    assert parts.cache.bytes == 2 * config.layers * config.kv_heads * config.head_dim * 21 * width
    assert (parts.cache.aliased, parts.cache.write) == (False, "scratch")


def test_sessions_report_the_contract(tmp_path: Path) -> None:
    _, parts = export(tmp_path, "qwen2_tied")
    assert parts.prefill is not None
    for graph, io in ((parts.decoder, parts.io), (parts.prefill.file, parts.prefill.io)):
        session = onnxruntime.InferenceSession(tmp_path / graph, providers=["CPUExecutionProvider"])
        for specs, nodes in ((io.inputs, session.get_inputs()), (io.outputs, session.get_outputs())):
            assert {(s.name, s.dtype, s.shape) for s in specs} == {(n.name, n.type, tuple(n.shape)) for n in nodes}


def test_quantized_products_are_fused_by_this_engine(tmp_path: Path) -> None:
    """Else every step would make float32 of all matrices."""
    for weights in ("int8", "int4"):
        folder = tmp_path / weights
        folder.mkdir()
        export(folder, "llama3_rope", weights)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        onnxruntime.InferenceSession(folder / "decode.onnx", options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(folder / "optimized.onnx", load_external_data=False).graph.node]
        assert kinds.count("MatMulNBits") == 11  # five of each layer, and the head
        assert "DequantizeLinear" not in kinds


def test_no_cache_is_copied(tmp_path: Path) -> None:
    """What a step makes of the engine's choice has no node that gives a whole cache, float32."""
    export(tmp_path, "llama3_rope")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "decode.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    past = {value.name for value in graph.input if value.name.startswith("past_key_values")}
    readers = {node.op_type for node in graph.node for name in node.input if name in past}
    assert len(past) == 4
    assert readers <= {"FusedMatMul", "MatMul"}


def test_a_swapped_pair_of_nodes_fails_a_gate(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "llama3_rope", "int8")
    model = onnx.load(tmp_path / "prefill.onnx", load_external_data=False)
    gate, up = (
        next(node for node in model.graph.node if node.name == f"model.layers.1.mlp.{kind}_proj.floats")
        for kind in ("gate", "up")
    )
    for index in range(2):
        gate.input[index], up.input[index] = up.input[index], gate.input[index]
    onnx.save(model, tmp_path / "prefill.onnx")
    assert "on the written weights" in check_written(decoder, tmp_path, parts).failures[0]


def test_a_step_that_forgets_its_own_token_fails_the_gate(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "llama3_rope")
    model = onnx.load(tmp_path / "decode.onnx", load_external_data=False)
    node = next(node for node in model.graph.node if node.name == "model.layers.1.self_attn.sum")
    node.input[1] = node.input[0]
    onnx.save(model, tmp_path / "decode.onnx")
    assert "logits differ" in check_decoder(decoder, tmp_path, parts).failures[0]


def test_blocks_divide_every_width() -> None:
    decoder = tiny_decoder("llama3_rope")  # hidden 64, intermediate 96: 64 would leave half a block
    heard = random_utterances(ids_of(HEAD), 12, 9)
    options = DecoderOptions("int8", 12, 9, 160, HEAD, "fp32", heard, flavour="portable")
    assert plan_decoder(decoder, options).weights.block_size == 32


def test_whole_rows_share_a_scale_without_any_block(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "qwen2_tied", PER_ROW)
    assert parts.weights.block_size == parts.weights.head_block == PER_CHANNEL
    model = onnx.load(tmp_path / "decode.onnx")
    pairs = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(pairs) == 5 * decoder.config.layers + 1
    assert all({a.name: a.i for a in node.attribute} == {"axis": 1} for node in pairs)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    name = "model.layers.0.mlp.down_proj.weight"
    packed, scales = quantize(decoder.state_dict()[name].numpy(), decoder.config.intermediate_size, 8)
    np.testing.assert_array_equal(arrays[name], (packed[:, 0].astype(int) - 128).T)
    np.testing.assert_array_equal(arrays[f"{name}.scales"], scales[:, 0])


def test_whole_rows_are_for_the_portable_flavour() -> None:
    with pytest.raises(OptionError, match=r"^block 0, one scale for each output channel, needs --flavour portable"):
        plan_decoder(tiny_decoder("llama3_rope"), DecoderOptions(PER_ROW, 12, 9, 160))


def test_head_dims_the_fused_op_refuses(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path, "qwen3_head_dim", head_dim=24)
    assert check_decoder(decoder, tmp_path, parts).failures == ()
    with pytest.raises(OptionError, match=r"head_dim 24 .*--flavour portable"):
        plan_decoder(decoder, DecoderOptions("fp32", 12, 9, 160))


def test_commands_take_it(tiny_voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exported, verified again, shown, heard and measured; the runtime's loop says what the other flavour says."""
    options = ["--weights", "fp32", "--window", "12", "--prefix", "100", "--threads", "1"]
    bundle = tmp_path / "bundle"
    assert main(["export", str(tiny_voice), "-o", str(bundle), "--flavour", "portable", *options]) == 0
    assert main(["verify", str(bundle), "--against", str(tiny_voice), "--threads", "1"]) == 0
    manifest = read_manifest(bundle)
    assert {"decode.onnx", "prefill.onnx", DATA} <= set(manifest.files)
    assert "decoder.onnx" not in manifest.files
    capsys.readouterr()
    assert main(["inspect", str(bundle)]) == 0
    assert "portable, onnxruntime ≥ 1.21" in capsys.readouterr().out
    report = tmp_path / "report.json"
    assert main(["profile", str(bundle), "--text", "Hi.", "--runs", "1", "-o", str(report), "--threads", "1"]) == 0
    assert json.loads(report.read_text())["memory"]["cache"] == manifest.cache.bytes
    assert main(["say", str(bundle), "Hello.", "-o", str(tmp_path / "out.wav")]) == 0
    stream = Stream(load_bundle(bundle, threads=1))
    assert stream.cache.nbytes == manifest.cache.bytes


def test_opening_keeps_large_pieces_apart(
    tiny_voice: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[None] = []
    monkeypatch.setattr(bundle_module, "keep_apart", lambda: called.append(None))
    load_bundle(tiny_bundle, threads=1)
    assert called == []
    options = ["--weights", "fp32", "--window", "12", "--prefix", "100", "--flavour", "portable", "--threads", "1"]
    assert main(["export", str(tiny_voice), "-o", str(tmp_path / "bundle"), *options]) == 0
    load_bundle(tmp_path / "bundle", threads=1)
    assert called


def test_both_flavours_say_the_same(tiny_bundle: Path, tiny_voice: Path, tmp_path: Path) -> None:
    options = ["--weights", "fp32", "--window", "12", "--prefix", "100", "--flavour", "portable", "--threads", "1"]
    assert main(["export", str(tiny_voice), "-o", str(tmp_path / "bundle"), *options]) == 0
    ids, said = np.random.default_rng(0).integers(0, tiny.CODES, 70).tolist(), []
    for folder in (tiny_bundle, tmp_path / "bundle"):
        stream = Stream(load_bundle(folder, threads=1))
        for _ in range(2):  # a second utterance finds what the first one left
            logits = [stream.prefill(ids[:30]).copy(), *(stream.step(token).copy() for token in ids[30:])]
        said.append(np.stack(logits))
    np.testing.assert_allclose(said[1], said[0], atol=1e-4 * said[0].std())


def test_a_manifest_that_contradicts_its_flavour_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"flavour": "portable"}))
    assert main(["say", str(bundle), "Hello.", "-o", str(tmp_path / "out.wav")]) == 2
    assert "flavour portable contradicts" in capsys.readouterr().err
