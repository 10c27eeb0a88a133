"""Codec graphs against the torch codec: same audio, streamed or whole, same codes, nothing left of the tracing."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession, SessionOptions

from sottovoce.export import codec_graph
from sottovoce.export.codec_parity import check_codec
from sottovoce.export.codec_weights import in_half
from sottovoce.models.codec import Codec, codec_spec
from sottovoce.runtime import contract
from sottovoce.runtime.manifest import CodecSpec
from sottovoce.runtime.session import open_session
from tests import tiny


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tiny.tiny_codec()


@pytest.fixture(scope="module")
def exported(codec: Codec, tmp_path_factory) -> tuple[Path, CodecSpec]:
    folder = tmp_path_factory.mktemp("codec")
    for name, graph in codec_graph.codec_graphs(codec).items():
        onnx.save(graph, folder / name)
    return folder, codec_spec(codec)


def test_graphs_agree_with_torch(codec: Codec, exported: tuple[Path, CodecSpec]) -> None:
    report = check_codec(codec, *exported)
    assert report.failures == ()
    assert report.peak > 1e-3  # something was compared
    assert report.encoder_agreement == 1.0


def test_a_decoder_in_eight_bits_is_smaller_and_says_nearly_the_same(codec: Codec, tmp_path: Path) -> None:
    graphs = codec_graph.codec_graphs(codec, "int8")
    spec = replace(codec_spec(codec), weights="int8")
    for name, graph in graphs.items():
        onnx.save(graph, tmp_path / name)
    assert graphs[spec.decoder].ByteSize() < 0.5 * codec_graph.decoder_graph(codec).ByteSize()
    report = check_codec(codec, tmp_path, spec)
    assert report.failures == () and 1e-6 < report.noise < 0.01
    assert check_codec(codec, tmp_path, replace(spec, weights="fp32")).failures[0].startswith("codec decoder differs")


def test_a_decoder_in_half_precision_is_smaller_and_runs_as_the_same_graph(codec: Codec, tmp_path: Path) -> None:
    """Weights that were rounded before, as a committed voice's are, leave what is computed for the graph to be lost."""
    for parameter in (rounded := deepcopy(codec)).parameters():
        parameter.data = parameter.data.half().float()
    graphs, spec = codec_graph.codec_graphs(rounded, "fp16"), replace(codec_spec(codec), weights="fp16")
    for name, graph in graphs.items():
        onnx.save(graph, tmp_path / name)
    assert graphs[spec.decoder].ByteSize() < 0.75 * codec_graph.decoder_graph(codec).ByteSize()
    report = check_codec(rounded, tmp_path, spec)
    assert report.failures == () and report.noise < 1e-6
    options = SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    InferenceSession(tmp_path / spec.decoder, options)
    ran = onnx.load(tmp_path / "run.onnx").graph.node
    assert not [node for node in ran if any(name.endswith(".fp16") for name in node.input)]


def test_numbers_beyond_half_precision_stay(codec: Codec) -> None:
    graph = codec_graph.decoder_graph(codec)
    matrix = next(item for item in graph.graph.initializer if np.prod(item.dims) > 1024 and item.data_type == 1)
    matrix.CopyFrom(onnx.numpy_helper.from_array(1e6 + onnx.numpy_helper.to_array(matrix), matrix.name))
    in_half(graph)
    assert {item.name: item.data_type for item in graph.graph.initializer}[matrix.name] == 1


def test_eight_bits_of_another_codec_are_noise(exported: tuple[Path, CodecSpec]) -> None:
    folder, spec = exported
    report = check_codec(tiny.tiny_codec(seed=1), folder, replace(spec, weights="int8"))
    assert report.failures[0].startswith("codec decoder adds ")


def test_graphs_have_the_contract_s_tensors(exported: tuple[Path, CodecSpec]) -> None:
    folder, spec = exported
    contract.check_codec(spec, open_session(folder / spec.decoder, 1))
    assert spec.encoder is not None
    contract.check_encoder(spec.encoder, open_session(folder / spec.encoder, 1))


def test_a_foreign_codec_misses_every_gate(exported: tuple[Path, CodecSpec]) -> None:
    report = check_codec(tiny.tiny_codec(seed=1), *exported)
    assert [line.split()[1] for line in report.failures] == ["decoder", "encoder"]


def test_a_state_that_is_not_carried_is_noticed(codec: Codec, exported: tuple[Path, CodecSpec], tmp_path: Path) -> None:
    folder, spec = exported
    model = onnx.load(folder / spec.decoder)
    zeros = np.zeros(spec.states[-1].shape, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, "forgotten"))
    for node in model.graph.node:
        if node.output[0] == f"next_{spec.states[-1].name}":
            node.output[0] = "unused"
    model.graph.node.append(onnx.helper.make_node("Identity", ["forgotten"], [f"next_{spec.states[-1].name}"]))
    onnx.save(model, tmp_path / spec.decoder)
    (tmp_path / "codec_encoder.onnx").symlink_to(folder / "codec_encoder.onnx")
    report = check_codec(codec, tmp_path, spec)
    assert [line.split()[0] for line in report.failures] == ["streamed"]


def test_flushed_audio_is_in_time(codec: Codec, exported: tuple[Path, CodecSpec]) -> None:
    folder, spec = exported
    codes = np.arange(12, dtype=np.int64)[None]
    flush = np.full((1, spec.flush_codes), spec.flush_code, np.int64)
    feeds = {state.name: np.zeros(state.shape, np.float32) for state in spec.states}
    session = open_session(folder / spec.decoder, 1)
    audio = session.run(["audio"], {"codes": np.concatenate([codes, flush], 1), **feeds})[0]
    wanted = codec.resynthesise(torch.from_numpy(codes)).detach().numpy()
    np.testing.assert_allclose(audio[:, spec.delay : spec.delay + 12 * spec.hop], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_nothing_of_the_tracing_is_left(codec: Codec, exported: tuple[Path, CodecSpec], name: str) -> None:
    model = onnx.load(exported[0] / f"codec_{name}.onnx")
    assert model.ir_version <= 10
    assert [(o.domain, o.version <= 21) for o in model.opset_import] == [("", True)]
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Dropout", "BatchNormalization", "RandomNormalLike", "RandomUniformLike", "Identity"}
    used = {name for node in model.graph.node for name in node.input}
    assert {weight.name for weight in model.graph.initializer} <= used
    assert str(Path(codec_graph.__file__).parents[1]).encode() not in model.SerializeToString()


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_the_same_codec_gives_the_same_bytes(codec: Codec, exported: tuple[Path, CodecSpec], name: str) -> None:
    again = getattr(codec_graph, f"{name}_graph")(codec)
    assert again.SerializeToString() == (exported[0] / f"codec_{name}.onnx").read_bytes()
