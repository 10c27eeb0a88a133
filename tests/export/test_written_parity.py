"""Every way in which a quantized file can be wrong fails a gate that needs no trained voice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from sottovoce.export.decoder import DATA, GRAPH, DecoderOptions, DecoderParts, export_decoder
from sottovoce.export.parity import random_cases
from sottovoce.export.variants import float_graph
from sottovoce.export.weight_recipe import WeightRecipe
from sottovoce.export.written_parity import check_written
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import WeightFormat, WeightOverride
from tests.models.shapes import CONFIGS, tiny_decoder

HEAD = ((3, 40), (50, 51), (60, 90))
INT8 = WeightRecipe("int8")
DOWN, UP, GATE = (f"model.layers.1.mlp.{kind}_proj" for kind in ("down", "up", "gate"))


def export(
    folder: Path, name: str = "llama3_rope", weights: WeightRecipe = INT8, **changes: Any
) -> tuple[Decoder, DecoderParts]:
    """A tiny decoder and the parts of its quantized graph in `folder`."""
    decoder = tiny_decoder(name, **changes)
    return decoder, export_decoder(decoder, DecoderOptions(weights, 12, 9, max_position=160, head_ranges=HEAD), folder)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("weights", [INT8, WeightRecipe("int4")])
def test_what_is_written_is_what_the_graph_says(tmp_path: Path, name: str, tied: bool, weights: WeightRecipe) -> None:
    decoder, parts = export(tmp_path, name, weights, tie_word_embeddings=tied)
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    report = check_written(decoder, tmp_path, parts)
    assert report.failures == ()
    assert report.wraps >= 4
    assert 0.45 < report.weight_error <= (0.5001 if weights == INT8 else 1.0001)  # and something was rounded
    assert set(parts.weights.formats) == ({"int8"} if weights == INT8 else {"int4", "int8"})
    assert report.float_error < 2e-5
    assert all(value.equal(before[key]) for key, value in decoder.state_dict().items())


MIXED = WeightRecipe(
    "int4",
    16,
    "int4",
    32,
    overrides=(
        WeightOverride("model.layers.0.*", "int8", 64),
        WeightOverride("*.down_proj", "fp16"),
        WeightOverride("model.layers.1.self_attn.[qkv]_proj", "fp32"),
    ),
)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("weights", [WeightRecipe("fp16"), MIXED, WeightRecipe("fp16", head="int8")])
def test_formats_mix(tmp_path: Path, tied: bool, weights: WeightRecipe) -> None:
    decoder, parts = export(tmp_path, weights=weights, tie_word_embeddings=tied)
    report = check_written(decoder, tmp_path, parts)
    assert report.failures == ()
    assert report.weight_error > 0.45
    assert report.float_error < 2e-5


def test_the_last_override_counts(tmp_path: Path) -> None:
    export(tmp_path, weights=MIXED)
    nodes = onnx.load(tmp_path / GRAPH, load_external_data=False).graph.node
    bits = {node.name: {a.name: a.i for a in node.attribute} for node in nodes if node.op_type == "MatMulNBits"}
    found = {name: (sizes["bits"], sizes["block_size"]) for name, sizes in bits.items()}
    modules = [f"model.layers.{at}.{name}.out" for at in (0, 1) for name in ("self_attn.o_proj", "mlp.up_proj")]
    assert [found[module] for module in modules] == [(8, 64), (8, 64), (4, 16), (4, 16)]
    assert found["lm_head.out"] == (4, 32)
    floats = [node.name for node in nodes if node.op_type == "MatMul"]
    assert floats == [
        f"model.layers.{name}.matmul" for name in ("0.mlp.down_proj", "1.self_attn.v_proj", "1.mlp.down_proj")
    ]


def negate(folder: Path) -> None:
    """A matrix of the file with every sign turned: byte b becomes 256 − b."""
    tensor = initializer(folder, f"{DOWN}.weight")
    start, length = (int(tensor[key]) for key in ("offset", "length"))
    data = bytearray((folder / DATA).read_bytes())
    data[start : start + length] = bytes((256 - byte) % 256 for byte in data[start : start + length])
    (folder / DATA).write_bytes(data)


def swap_bytes(folder: Path) -> None:
    """Two matrices of one shape, each in the other's place with its scales."""
    data = bytearray((folder / DATA).read_bytes())
    for suffix in (".weight", ".weight.scales"):
        spans = []
        for name in (UP, GATE):
            tensor = initializer(folder, name + suffix)
            spans.append(slice(int(tensor["offset"]), int(tensor["offset"]) + int(tensor["length"])))
        data[spans[0]], data[spans[1]] = data[spans[1]], data[spans[0]]
    (folder / DATA).write_bytes(data)


def initializer(folder: Path, name: str) -> dict[str, str]:
    """Where the bytes of an initializer lie."""
    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    (tensor,) = [tensor for tensor in graph.initializer if tensor.name == name]
    return {entry.key: entry.value for entry in tensor.external_data}


def rewire(folder: Path) -> None:
    """A graph whose nodes use each other's matrices; the file of weights is right."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    gate, up = (next(n for n in model.graph.node if n.name == f"{name}.out") for name in (GATE, UP))
    gate.input[1], up.input[1] = up.input[1], gate.input[1]
    gate.input[2], up.input[2] = up.input[2], gate.input[2]
    onnx.save(model, folder / GRAPH)


def lose_residual(folder: Path) -> None:
    """A graph that leaves a residual connection out."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    node = next(n for n in model.graph.node if n.name == "model.norm")
    node.input[1] = node.input[0]
    onnx.save(model, folder / GRAPH)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a negated matrix": (negate, "steps off"),
    "swapped matrices": (swap_bytes, "steps off"),
    "swapped nodes": (rewire, "on the written weights"),
    "a lost residual": (lose_residual, "on the written weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_fault_fails_a_gate(tmp_path: Path, fault: str, weights: WeightFormat) -> None:
    decoder, parts = export(tmp_path, weights=WeightRecipe(weights))
    spoil, says = FAULTS[fault]
    spoil(tmp_path)
    assert says in check_written(decoder, tmp_path, parts).failures[0]


@pytest.mark.parametrize("where", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"])
def test_nan_fails_a_gate(tmp_path: Path, where: str) -> None:
    decoder, parts = export(tmp_path)
    decoder.get_parameter(where)[5] = float("nan")
    assert check_written(decoder, tmp_path, parts).failures


def test_a_short_drive_fails_the_gate(tmp_path: Path) -> None:
    decoder, parts = export(tmp_path)
    assert check_written(decoder, tmp_path, parts, random_cases(parts, max_steps=6)).failures == (
        "the ring went round 0.8 times, 4.0 are asked for",
    )


def test_float_graph_differs_in_arithmetic_alone(tmp_path: Path) -> None:
    export(tmp_path)
    written, variant = (tmp_path / GRAPH).read_bytes(), float_graph(tmp_path / GRAPH).SerializeToString()
    assert variant.count(b"accuracy_level") == written.count(b"accuracy_level")
    assert variant != written
